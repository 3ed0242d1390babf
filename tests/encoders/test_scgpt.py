"""ScGPTEncoder against the package scgpt: its binning, its network and its embedding of real cells, on random weights."""

import importlib
import importlib.util
import json
import math
import pickle
import sys
import types
import warnings
from fractions import Fraction
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.encoders.base import encode_cells
from c2s.encoders.scgpt import CellTokens, ScGPTEncoder, quantile_bins

SPECIAL = ("<pad>", "<cls>", "<eoc>")
ARGUMENTS = {
    "embsize": 64, "nheads": 4, "d_hid": 48, "nlayers": 2, "dropout": 0.2, "n_layers_cls": 3, "n_bins": 51,
    "pad_token": "<pad>", "pad_value": -2, "input_style": "binned", "input_emb_style": "continuous", "n_hvg": None,
    "max_seq_len": 1200, "mask_ratio": [0.25, 0.5, 0.75],
}  # fmt: skip


@pytest.fixture(scope="module")
def package():
    """Modules of scgpt. Its own imports need torchtext, so the folders are loaded without their `__init__`."""
    if importlib.util.find_spec("scgpt") is None:
        pytest.skip("scgpt is not installed: pip install --no-deps scgpt")
    root = Path(next(iter(importlib.util.find_spec("scgpt").submodule_search_locations)))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that flash_attn is not there
        for name in ("", ".model", ".tasks", ".tokenizer", ".utils"):
            stub = types.ModuleType(f"scgpt{name}")
            stub.__path__ = [str(root / name.removeprefix("."))]
            patch.setitem(sys.modules, stub.__name__, stub)
        sys.modules["scgpt"].logger = None
        # cell_emb imports these for reading files, which the test does in its own way.
        sys.modules["scgpt.tokenizer"].GeneVocab = sys.modules["scgpt.utils"].load_pretrained = None
        model = importlib.import_module("scgpt.model.model")
        sys.modules["scgpt.model"].TransformerModel = model.TransformerModel
        yield types.SimpleNamespace(
            root=root,
            model=model,
            preprocess=importlib.import_module("scgpt.preprocess"),
            cell_emb=importlib.import_module("scgpt.tasks.cell_emb"),
        )
    for name in [name for name in sys.modules if name.split(".")[0] == "scgpt"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def vocab(package, pancreas):
    """Every fourth pancreas gene that scGPT knows, some 4,000, and 500 genes that the data lack."""
    known = json.loads((package.root / "tokenizer/default_gene_vocab.json").read_text())
    here = set(pancreas.var_names)
    words = [w for w in sorted(known) if w in here][::4] + [w for w in known if w not in here][:500]
    return {word: i for i, word in enumerate([*SPECIAL, *words])}


@pytest.fixture(scope="module")
def network(package, vocab):
    """The package's own model as `embed_data` makes it, no weight of which is 0 or 1."""
    torch.manual_seed(0)
    model = package.model.TransformerModel(
        len(vocab), 64, 4, 48, 2, nlayers_cls=3, n_cls=1, vocab=vocab, dropout=0.2, pad_token="<pad>",
        pad_value=-2, do_mvc=True, use_fast_transformer=False,
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def write(folder, weights, vocab, arguments=ARGUMENTS):
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / "best_model.pt")
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "args.json").write_text(json.dumps(arguments))
    return folder


@pytest.fixture(scope="module")
def folder(network, vocab, tmp_path_factory):
    """A folder as published: attention weights have the names of flash-attention, and there is a flag encoder."""
    weights = {k.replace("in_proj_", "Wqkv."): v for k, v in network.state_dict().items()}
    weights["flag_encoder.weight"] = torch.zeros(2, 64)
    return write(tmp_path_factory.mktemp("scgpt"), weights, vocab)


@pytest.fixture(scope="module")
def encoder(folder):
    return ScGPTEncoder.from_folder(folder, device="cpu")


def log_normalised(counts):
    counts = sp.csr_matrix(counts, dtype=np.float64)
    scaled = sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1)))
    scaled.data = np.log10(1 + scaled.data)
    return scaled


@pytest.fixture(scope="module")
def cells(pancreas):
    """Counts of 24 cells, their expression, and the vocabulary of the columns."""
    counts = sp.csr_matrix(pancreas.X[::80][:24])
    return counts, log_normalised(counts), GeneVocabulary(list(pancreas.var_names))


def embedded_by_the_package(package, network, vocab, counts, genes, monkeypatch):
    """`get_batch_cell_embeddings` in one process, with the package's own rule for ties that does not draw."""
    digitize = package.preprocess._digitize
    monkeypatch.setattr(package.preprocess, "_digitize", lambda x, bins: digitize(x, bins, "one"))
    monkeypatch.setattr(package.cell_emb.os, "sched_getaffinity", lambda _: set())
    tokens = np.array([vocab.get(gene, -1) for gene in genes])
    adata = anndata.AnnData(
        sp.csr_matrix(counts[:, tokens >= 0]), var=pd.DataFrame({"id_in_vocab": tokens[tokens >= 0]}, index=[g for g, t in zip(genes, tokens, strict=True) if t >= 0])
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # half precision and pinned memory, that there is no GPU for
        return package.cell_emb.get_batch_cell_embeddings(
            adata,
            model=network,
            vocab=vocab,
            max_length=3000,
            batch_size=7,
            model_configs=ARGUMENTS,
        )


@pytest.mark.parametrize("names", ["flash-attention", "PyTorch"])
def test_equal_to_the_package_on_real_cells(
    names, package, network, vocab, folder, cells, tmp_path, monkeypatch
):
    counts, expression, vocabulary = cells
    expected = embedded_by_the_package(
        package, network, vocab, counts, vocabulary.names, monkeypatch
    )
    if names == "PyTorch":
        folder = write(tmp_path / "plain", network.state_dict(), vocab)
    ours = ScGPTEncoder.from_folder(folder, device="cpu", max_length=3000, ties="one")
    points = ours.encode(expression, vocabulary)
    np.testing.assert_allclose(points, expected, atol=1e-5)
    assert (
        np.abs(expected - expected.mean(axis=0)).max() > 0.01
    )  # cells do differ by more than that
    assert points.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)


def test_before_the_scaling_it_is_the_output_of_the_packages_model(network, folder, cells):
    _, expression, vocabulary = cells
    ours = ScGPTEncoder.from_folder(folder, device="cpu", normalize=False)
    points = ours.encode(expression[:4], vocabulary)
    prepared = ours.prepare(expression[:4], vocabulary)
    # Values above 512 are read as 512, which bins never are.
    large = CellTokens(prepared[0].tokens, prepared[0].values * 30)
    with torch.no_grad():
        points = np.vstack([points, ours.forward([large]).numpy()])
    for cell, point in zip([*prepared, large], points, strict=True):
        tokens = torch.from_numpy(cell.tokens).long()[None]
        with torch.no_grad():
            states = network._encode(tokens, torch.from_numpy(cell.values)[None], tokens.eq(0))
        np.testing.assert_allclose(point, states[0, 0].numpy(), atol=1e-5)


# Binning.

COUNTS = st.lists(st.integers(1, 9) | st.integers(1, 2000), min_size=1, max_size=120)


@settings(max_examples=200, deadline=None)
@given(COUNTS, st.sampled_from([3, 5, 51]))
def test_bins_equal_exact_quantiles(counts, n_bins):
    ordered = sorted(counts)
    edges = []
    for j in range(n_bins - 1):
        place = Fraction(j * (len(counts) - 1), n_bins - 2)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        edges.append(low + (high - low) * (place - math.floor(place)))
    highest = [sum(edge <= c for edge in edges) for c in counts]
    lowest = [
        min(sum(edge < c for edge in edges) + 1, h) for c, h in zip(counts, highest, strict=True)
    ]
    values = np.array(counts, dtype=float)
    np.testing.assert_array_equal(quantile_bins(values, n_bins), highest)
    zeros, ones = np.zeros(len(values)), np.full(len(values), 1 - 2**-53)
    np.testing.assert_array_equal(quantile_bins(values, n_bins, zeros), highest)
    np.testing.assert_array_equal(quantile_bins(values, n_bins, ones), lowest)
    scaled = np.log10(1 + values / 7).astype(np.float32)
    np.testing.assert_array_equal(quantile_bins(scaled, n_bins), highest)


@settings(max_examples=100, deadline=None)
@given(COUNTS.filter(lambda counts: (len(counts) - 1) % 7), st.integers(0, 2**32 - 1))
def test_bins_equal_those_of_the_package_with_the_same_draws(package, counts, seed):
    # With a multiple of 7 and 1, inner edges are values, and the package's rounding may put them aside.
    draws = np.random.default_rng(seed).random(len(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "rand", lambda n: draws)
        expected = package.preprocess.binning(np.array(counts, dtype=float), 51)
    np.testing.assert_array_equal(quantile_bins(np.array(counts, dtype=float), 51, draws), expected)


def test_bins_by_hand():
    # Edges 1, 1, 1, 2, 4: the values' ranks 0 to 4.
    values = np.array([1.0, 1, 1, 2, 4])
    np.testing.assert_array_equal(quantile_bins(values, 6), [3, 3, 3, 4, 5])
    draws = np.array([0, 0.4, 0.9, 0.5, 0.5])
    np.testing.assert_array_equal(quantile_bins(values, 6, draws), [3, 2, 1, 4, 5])


def test_equal_counts_are_spread_evenly_and_alike_in_every_cell(encoder, cells):
    counts, _, vocabulary = cells
    ones = sp.csr_matrix((counts > 0).astype(float))
    prepared = encoder.prepare(log_normalised(ones), vocabulary)
    cell = prepared[0]
    shares = np.bincount(cell.values[1:].astype(int), minlength=51)[1:] / (len(cell.values) - 1)
    assert np.abs(shares - 0.02).max() < 0.02
    for other in prepared[1:]:
        _, here, there = np.intersect1d(cell.tokens, other.tokens, return_indices=True)
        np.testing.assert_array_equal(cell.values[here], other.values[there])
    assert cell.values[0] == -2
    assert cell.tokens[0] == 1


# What a place depends on.


def test_a_place_does_not_depend_on_other_cells(encoder, folder, cells):
    _, expression, vocabulary = cells
    together = encoder.encode(expression, vocabulary)
    one_by_one = ScGPTEncoder.from_folder(folder, device="cpu", batch_size=1)
    np.testing.assert_allclose(one_by_one.encode(expression, vocabulary), together, atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(expression[[5, 3, 5]], vocabulary), together[[5, 3, 5]], atol=1e-5
    )
    assert encoder.encode(expression[:0], vocabulary).shape == (0, 64)


@pytest.mark.parametrize("max_length", [1200, 200])
def test_the_order_of_genes_and_unknown_genes_do_not_matter(folder, cells, vocab, max_length):
    _, expression, vocabulary = cells
    encoder = ScGPTEncoder.from_folder(folder, device="cpu", max_length=max_length)
    expected = encoder.encode(expression, vocabulary)
    order = np.random.default_rng(0).permutation(len(vocabulary))
    shuffled = GeneVocabulary([vocabulary.names[i] for i in order])
    np.testing.assert_array_equal(encoder.encode(expression[:, order], shuffled), expected)
    known = [i for i, name in enumerate(vocabulary.names) if name in vocab]
    only = GeneVocabulary([vocabulary.names[i] for i in known])
    np.testing.assert_array_equal(encoder.encode(expression[:, known], only), expected)
    lower = GeneVocabulary([vocabulary.names[i].lower() for i in known])
    np.testing.assert_array_equal(encoder.encode(expression[:, known], lower), expected)


def test_the_input_is_left_as_it_is(encoder, cells, vocab):
    genes = [w for w in vocab if w not in SPECIAL][:40]
    expression = sp.csr_matrix(np.tile(np.arange(40.0), (2, 1)))
    expression.data[3] = 0  # a stored zero is no expressed gene
    before = expression.copy()
    prepared = encoder.prepare(expression, GeneVocabulary(genes))
    assert [len(cell.tokens) for cell in prepared] == [39, 40]
    np.testing.assert_array_equal(expression.indptr, before.indptr)
    np.testing.assert_array_equal(expression.data, before.data)


def test_of_too_many_genes_some_are_drawn_anew_for_each_cell(encoder, folder, cells):
    _, expression, vocabulary = cells
    whole = encoder.prepare(expression, vocabulary)
    short = ScGPTEncoder.from_folder(folder, device="cpu", max_length=100)
    drawn = short.prepare(expression, vocabulary)
    assert {len(cell.tokens) for cell in drawn} == {100}
    kept, shared = [], []
    for full, part in zip(whole, drawn, strict=True):
        bins = dict(zip(full.tokens, full.values, strict=True))
        assert [bins[t] for t in part.tokens] == part.values.tolist()
        assert len(set(part.tokens)) == 100
        # Low and high bins are drawn alike.
        kept.append((part.values[1:].mean() - full.values[1:].mean()) / full.values[1:].std())
        both = np.intersect1d(full.tokens[1:], whole[0].tokens[1:])
        shared.append((np.isin(both, part.tokens), np.isin(both, drawn[0].tokens)))
    assert abs(np.mean(kept)) < 0.1
    # Whether a gene is drawn in one cell says nothing about another cell.
    mine, first = (np.concatenate(each) for each in zip(*shared[1:], strict=True))
    assert abs(np.corrcoef(mine, first)[0, 1]) < 0.05
    other = ScGPTEncoder.from_folder(folder, device="cpu", max_length=100, seed=1)
    assert set(other.prepare(expression, vocabulary)[0].tokens) != set(drawn[0].tokens)
    np.testing.assert_array_equal(short.prepare(expression[7:8], vocabulary)[0], drawn[7])


def test_training_on_it_gives_gradients_and_encode_leaves_the_mode(encoder, cells):
    _, expression, vocabulary = cells
    expected = encoder.encode(expression[:3], vocabulary)
    points = encoder.forward(encoder.prepare(expression[:3], vocabulary))
    scaled = torch.nn.functional.normalize(points, dim=1)
    np.testing.assert_allclose(scaled.detach().numpy(), expected, atol=1e-5)
    points.sum().backward()
    assert all(weight.grad is not None for weight in encoder.network.parameters())
    encoder.network.zero_grad()
    encoder.network.train()
    assert not torch.allclose(encoder.forward(encoder.prepare(expression[:3], vocabulary)), points)
    np.testing.assert_allclose(encoder.encode(expression[:3], vocabulary), expected, atol=1e-5)
    assert encoder.network.training
    encoder.network.eval()


def test_digest_is_of_the_files_and_of_what_places_a_cell(
    encoder, network, vocab, folder, tmp_path
):
    digest = encoder.digest()
    assert ScGPTEncoder.from_folder(folder, device="cpu", batch_size=3).digest() == digest
    others = [
        ScGPTEncoder.from_folder(folder, device="cpu", **change).digest()
        for change in ({"max_length": 900}, {"seed": 1}, {"normalize": False}, {"ties": "one"})
    ]
    weights = dict(network.state_dict())
    others.append(
        ScGPTEncoder.from_folder(write(tmp_path / "a", weights, vocab), device="cpu").digest()
    )
    weights["encoder.enc_norm.bias"] = weights["encoder.enc_norm.bias"] + 1e-6
    others.append(
        ScGPTEncoder.from_folder(write(tmp_path / "a", weights, vocab), device="cpu").digest()
    )
    assert len({digest, *others}) == 7


def test_results_name_the_encoder(encoder, cells):
    _, expression, vocabulary = cells
    result = encode_cells(encoder, expression[:2], vocabulary)
    assert result.encoder == f"scgpt-{encoder.digest()[:16]}"
    assert encoder.n_dimensions == result.points.shape[1] == 64


def test_files_of_old_pytorch_and_half_precision_are_read(network, vocab, cells, encoder, tmp_path):
    _, expression, vocabulary = cells
    expected = encoder.encode(expression[:3], vocabulary)
    old = write(tmp_path / "old", network.state_dict(), vocab)
    torch.save(network.state_dict(), old / "best_model.pt", _use_new_zipfile_serialization=False)
    points = ScGPTEncoder.from_folder(old, device="cpu").encode(expression[:3], vocabulary)
    np.testing.assert_array_equal(points, expected)
    half = write(tmp_path / "half", {k: v.half() for k, v in network.state_dict().items()}, vocab)
    points = ScGPTEncoder.from_folder(half, device="cpu").encode(expression[:3], vocabulary)
    np.testing.assert_allclose(points, expected, atol=5e-3)


# What is refused.


def test_cells_without_a_place_are_refused(encoder, cells, vocab):
    _, expression, vocabulary = cells
    emptied = expression[:4].tolil()
    emptied[2] = 0
    with pytest.raises(InputError, match=r"1 of 4 cells have no expressed gene.*row 2"):
        encoder.encode(emptied.tocsr(), vocabulary)
    for bad in (np.nan, np.inf, -1.0):
        wrong = expression[:2].copy()
        wrong.data[0] = bad
        with pytest.raises(InputError, match="NaN, infinite or negative"):
            encoder.encode(wrong, vocabulary)
    with pytest.raises(InputError, match="none of the 2 genes"):
        encoder.encode(sp.csr_matrix(np.ones((1, 2))), GeneVocabulary(["x1", "x2"]))
    one_known = GeneVocabulary([next(w for w in vocab if w not in SPECIAL), "x1", "x2"])
    with pytest.warns(C2SWarning, match="only 1 of the 3 genes"):
        encoder.encode(sp.csr_matrix(np.ones((1, 3))), one_known)


def test_parameters_that_cannot_work_are_refused(folder):
    for change in ({"batch_size": 0}, {"max_length": 1}, {"ties": "both"}, {"device": "abacus"}):
        with pytest.raises(UsageError, match=next(iter(change))):
            ScGPTEncoder.from_folder(folder, **change)


def without(table, *names):
    return {name: value for name, value in table.items() if name not in names}


def test_checkpoints_that_do_not_fit_are_refused(network, vocab, tmp_path):
    with pytest.raises(InputError, match="found no args.json, vocab.json, best_model.pt"):
        ScGPTEncoder.from_folder(tmp_path / "nowhere")
    weights = network.state_dict()
    shifted = {word: i + 1 for word, i in vocab.items()}
    no_start = {("<start>" if w == "<cls>" else w): i for w, i in vocab.items()}
    layer = "transformer_encoder.layers.1.norm2.bias"
    wrong = [
        (without(weights, layer), vocab, ARGUMENTS, f"lacks {layer}"),
        ({**weights, "dsbn.weight": torch.ones(1)}, vocab, ARGUMENTS, "has also dsbn.weight"),
        (weights, vocab, {**ARGUMENTS, "nlayers": 1}, r"has also transformer_encoder\.layers\.1"),
        (weights, vocab, {**ARGUMENTS, "d_hid": 64}, r"shape \(48, 64\), expected \(64, 64\)"),
        (weights, vocab, without(ARGUMENTS, "embsize"), r"args\.json: the field 'embsize' is missing"),
        (weights, vocab, {**ARGUMENTS, "nheads": 7}, "expected a multiple"),
        (weights, vocab, {**ARGUMENTS, "input_emb_style": "category"}, "input_emb_style = 'category'"),
        (weights, {**vocab, "EXTRA": len(vocab)}, ARGUMENTS, "encoder.embedding.weight has the shape"),
        (weights, shifted, ARGUMENTS, "each once"),
        (weights, no_start, ARGUMENTS, "lacks the token '<cls>'"),
        ([1, 2], vocab, ARGUMENTS, "expected a table of names and tensors"),
    ]  # fmt: skip
    for w, v, a, message in wrong:
        with pytest.raises(InputError, match=message) as error:
            ScGPTEncoder.from_folder(write(tmp_path / "wrong", w, v, a), device="cpu")
        assert "\n" not in str(error.value)
    folder = write(tmp_path / "wrong", weights, vocab)
    for name in ("args.json", "vocab.json", "best_model.pt"):
        held = (folder / name).read_bytes()
        (folder / name).write_bytes(held[: len(held) // 2])
        with pytest.raises(InputError, match=name) as error:
            ScGPTEncoder.from_folder(folder, device="cpu")
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(held)


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("kind", ["a pickle", "an archive"])
def test_no_code_of_a_pickle_is_run(kind, network, vocab, tmp_path):
    folder = write(tmp_path / "bad", {"a": Harmful(tmp_path / "mark")}, vocab)
    if kind == "a pickle":
        (folder / "best_model.pt").write_bytes(
            pickle.dumps({"a": Harmful(tmp_path / "mark")}, protocol=2)
        )
    with pytest.raises(InputError, match="running a pickle's code is refused") as error:
        ScGPTEncoder.from_folder(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mark").exists()
