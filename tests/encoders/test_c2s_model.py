"""C2SEncoder against `c2s.tl.embed`, on real cells, reconstructed sentences and broken input."""

import os
import shutil

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import c2s
from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.encoders.base import encode_cells, encode_sentences
from c2s.encoders.c2s_model import C2SEncoder, embed_ranked, model_digest
from c2s.models.directory import Model, load_model


@pytest.fixture(scope="module")
def few(cut):
    """Real cells whose normalised expression is in X."""
    part = cut[::10].copy()
    c2s.pp.normalize(part)
    return part


@pytest.fixture(scope="module")
def vocabulary(few):
    return GeneVocabulary.from_var(few.var)


@pytest.fixture(scope="module")
def expression(few):
    return sp.csr_matrix(few.X)


@pytest.fixture(scope="module")
def model_folder(gene_tokenizer, make_model, cut, tmp_path_factory):
    """A model of random weights, whose states depend on every token."""
    card = {"inverse": {"pancreas": c2s.pp.fit_inverse(cut).to_dict()}}
    folder = tmp_path_factory.mktemp("random") / "model"
    make_model(gene_tokenizer, card=card).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder, device="cpu")


@pytest.fixture
def encoder(model):
    return C2SEncoder(model)


def embedded(adata, model, **options):
    return c2s.tl.embed(adata, model, copy=True, **options).obsm["X_c2s"]


@pytest.mark.parametrize("options", [{}, {"top_k": 7, "seed": 3}, {"organism": "Homo sapiens"}])
def test_places_are_those_of_embed(cut, few, model, expression, vocabulary, options):
    """From counts and from normalised values, with the ties that the cells' names give."""
    encoder = C2SEncoder(model, batch_size=4, **options)
    found = encoder.encode(expression, vocabulary, few.obs_names)
    assert found.dtype == np.float64
    assert found.shape == (few.n_obs, encoder.n_dimensions)
    np.testing.assert_allclose(found, embedded(few, model, **options), atol=1e-5)
    np.testing.assert_allclose(found, embedded(cut[::10].copy(), model, **options), atol=1e-5)


def test_a_sentence_and_its_reconstruction_lie_at_one_place(few, model, encoder):
    """Values that fall strictly along the sentence have no ties, and ranking them gives the sentence back."""
    cells = c2s.pp.cell_sentences(few, top_k=16, genes=list(model.vocabulary.words))
    reconstructed = encode_sentences(encoder, cells, model.inverse)
    np.testing.assert_allclose(reconstructed.points, embedded(few, model), atol=1e-5)
    text = cells.to_text().to_pylist()
    by_text = encode_sentences(encoder, text, model.inverse)
    np.testing.assert_allclose(by_text.points, reconstructed.points, atol=1e-6)
    # Another sentence lies elsewhere.
    words = text[0].split()
    turned = encode_sentences(encoder, [" ".join(words[::-1])], model.inverse)
    assert np.abs(turned.points[0] - by_text.points[0]).max() > 1e-3


def test_a_place_depends_on_the_cell_alone(expression, vocabulary, encoder):
    together = encode_cells(encoder, expression, vocabulary)
    assert together.encoder == f"c2s-{encoder.digest()[:16]}"
    rows = [9, 2, 9]
    some = encoder.encode(expression[rows], vocabulary)
    np.testing.assert_allclose(some, together.points[rows], atol=1e-5)
    order = np.random.default_rng(0).permutation(len(vocabulary))
    shuffled = GeneVocabulary([vocabulary.names[i] for i in order])
    found = encoder.encode(sp.csr_matrix(expression[:, order]), shuffled)
    np.testing.assert_allclose(found, together.points, atol=1e-5)


def test_stored_zeros_say_nothing(model, expression, vocabulary, encoder):
    known = expression[:, vocabulary.columns(model.vocabulary.words)]
    zeros = sp.csr_matrix(np.where(known.toarray() == 0, 1.0, 0.0))
    padded = sp.csr_matrix(known + zeros)
    padded.data[padded.data == 1.0] = 0.0
    assert padded.nnz == known.shape[0] * known.shape[1]
    found = [encoder.encode(each, model.vocabulary) for each in (padded, known)]
    np.testing.assert_allclose(*found, atol=1e-6)
    np.testing.assert_allclose(found[0], encoder.encode(expression, vocabulary), atol=1e-5)


def test_the_seed_orders_ties(model, encoder, expression, vocabulary):
    """Most genes of a real cell tie with others, so other ties are other prompts."""
    other = C2SEncoder(model, seed=1)
    difference = np.abs(
        other.encode(expression, vocabulary) - encoder.encode(expression, vocabulary)
    )
    assert (difference.max(axis=1) > 1e-4).mean() > 0.5


def test_a_cell_without_genes_is_nan_for_the_verb_and_refused_here(model, encoder):
    texts = {"organism": np.full(2, "Homo sapiens", dtype=object)}
    cells = RankedCells.from_columns([[], [3, 1]], model.vocabulary)
    places = embed_ranked(model, cells, texts)
    assert places.dtype == np.float32
    assert np.isnan(places[0]).all()
    assert np.isfinite(places[1]).all()
    empty = sp.csr_matrix(([1.0], ([1], [0])), shape=(2, len(model.vocabulary)))
    with pytest.raises(InputError, match=r"c2s: 1 cells express none .*\(the first in row 0\)"):
        encoder.encode(empty, model.vocabulary)
    assert encoder.encode(empty[:0], model.vocabulary).shape == (0, encoder.n_dimensions)


def test_digest_tells_what_decides_a_place(model_folder, model, encoder):
    first = encoder.digest()
    assert C2SEncoder(load_model(model_folder, device="cpu"), batch_size=2).digest() == first
    assert C2SEncoder(model, organism="homo_sapiens").digest() == first
    others = [C2SEncoder(model, top_k=5), C2SEncoder(model, seed=1)]
    with pytest.warns(C2SWarning, match="never saw organism 'Mus musculus'"):
        others.append(C2SEncoder(model, organism="Mus musculus"))
    changed = load_model(model_folder, device="cpu")
    with torch.no_grad():
        next(iter(changed.network.parameters()))[0, 0] += 1e-3
    others.append(C2SEncoder(changed))
    assert len({first, *(other.digest() for other in others)}) == 5


def test_a_model_is_known_by_its_content(model_folder, model, tmp_path):
    """What `c2s.tl.embed_file` goes on by: another place or batch is the same model, another card is not."""
    shutil.copytree(model_folder, tmp_path / "copy")
    again = load_model(tmp_path / "copy", device="cpu")
    assert model_digest(again) == model_digest(model)
    again.card = again.card.model_copy(update={"calibration": {"temperature": 2.0}})
    digests = {model_digest(model), model_digest(again)}
    with torch.no_grad():
        next(iter(again.network.parameters()))[0, 0] += 1e-3
    digests.add(model_digest(again))
    assert len(digests) == 3
    # Weights that are not in memory are known by their files.
    again.network.to("meta")
    before = model_digest(again)
    assert model_digest(again) == before
    unread = load_model(tmp_path / "copy", weights=False)
    digests = {model_digest(unread)}
    assert model_digest(load_model(tmp_path / "copy", weights=False)) in digests
    digests.add(model_digest(load_model(tmp_path / "copy", weights=False, dtype="bfloat16")))
    os.utime(tmp_path / "copy" / "model.safetensors", (1, 1))
    assert model_digest(again) != before
    assert len({*digests, model_digest(unread)}) == 3


def test_an_organism_must_be_known(model):
    conditions = {**model.card.conditions, "organism": ["Homo sapiens", "Mus musculus"]}
    card = model.card.model_copy(update={"conditions": conditions})
    two = Model(model.network, model.tokenizer, card)
    with pytest.raises(UsageError, match=r"names the organism; give organism=… \(known: Homo sap"):
        C2SEncoder(two)
    assert C2SEncoder(two, organism="mus musculus").digest() != C2SEncoder(model).digest()


def test_what_cannot_be_encoded(model, encoder):
    with pytest.raises(UsageError, match="top_k: found 0, expected at least 1"):
        C2SEncoder(model, top_k=0)
    with pytest.raises(UsageError, match="batch_size=0 is not possible"):
        C2SEncoder(model, batch_size=0).encode(sp.csr_matrix([[1.0]]), GeneVocabulary(["INS"]))
    with pytest.raises(InputError, match=r"c2s: none of the 1 genes of the cells \(XYZ\)"):
        encoder.encode(sp.csr_matrix([[1.0]]), GeneVocabulary(["xyz"]))
    genes = GeneVocabulary.from_words(model.vocabulary.words[:2])
    for value, said in ((np.nan, "nan"), (-1.0, "-1"), (np.inf, "inf")):
        with pytest.raises(InputError, match=rf"c2s: cell 1, gene {genes.words[1]} is {said}"):
            encoder.encode(sp.csr_matrix([[1.0, 1.0], [1.0, value]]), genes)
