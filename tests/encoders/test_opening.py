"""Encoders by name: each kind gets what the text and the arguments say, and what cannot work is told in one line."""

import importlib.util

import numpy as np
import pytest
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.encoders.c2s_model import C2SEncoder
from c2s.encoders.geneformer import GeneformerEncoder
from c2s.encoders.opening import ENCODERS, open_encoder
from c2s.encoders.pca import PCAEncoder
from c2s.encoders.scgpt import ScGPTEncoder
from c2s.models.directory import load_model


@pytest.fixture(scope="module")
def training(pancreas):
    counts = sp.csr_matrix(pancreas.X[:120, :900])
    scaled = sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1)))
    return scaled.log1p() / np.log(10), GeneVocabulary.from_var(pancreas.var[:900])


@pytest.fixture
def recorded(monkeypatch):
    """Return a function that makes a method record how it is called."""

    def record(cls, method):
        calls = []

        def called(*arguments, **options):
            calls.append((arguments, options))
            return "an encoder"

        monkeypatch.setattr(cls, method, called)
        return calls

    return record


def test_pca_is_fitted_on_the_training_cells(training, tmp_path):
    matrix, vocabulary = training
    twenty = open_encoder("pca", training=training)
    assert twenty.n_dimensions == 20
    seven = open_encoder(" pca:7 ", training=training, seed=3)
    expected = PCAEncoder(7, 3).fit(matrix, vocabulary)
    assert seven.digest() == expected.digest()
    np.testing.assert_array_equal(
        seven.encode(matrix, vocabulary), expected.encode(matrix, vocabulary)
    )
    file = tmp_path / "space:7.npz"  # a colon may be part of a path
    expected.save(file)
    assert open_encoder(f"pca:{file}").digest() == expected.digest()


def test_too_few_cells_for_pca(training):
    matrix, vocabulary = training
    with pytest.raises(InputError, match=r"20 principal .* 21 cells and 20 genes, found 20 and 900; give pca:19 or"):  # fmt: skip
        open_encoder("pca", training=(matrix[:20], vocabulary))
    assert open_encoder("pca:19", training=(matrix[:20], vocabulary)).n_dimensions == 19
    with pytest.raises(InputError, match="found 1 and 900; give more cells"):
        open_encoder("pca:1", training=(matrix[:1], vocabulary))


def test_checkpoints_are_read_with_the_arguments(recorded):
    calls = recorded(ScGPTEncoder, "from_folder")
    assert open_encoder("scgpt:a/b", device="cpu", seed=4) == "an encoder"
    open_encoder("scgpt:a/b", batch_size=5)
    assert calls == [
        (("a/b",), {"device": "cpu", "seed": 4}),
        (("a/b",), {"device": None, "seed": 0, "batch_size": 5}),
    ]
    calls = recorded(GeneformerEncoder, "from_folder")
    open_encoder("geneformer:C:/d", device="cpu", batch_size=3, seed=4)
    assert calls == [(("C:/d",), {"device": "cpu", "batch_size": 3})]


def test_a_c2s_model_is_loaded(gene_tokenizer, make_model, tmp_path):
    make_model(gene_tokenizer).save(tmp_path)
    encoder = open_encoder(f"c2s:{tmp_path}", device="cpu", batch_size=3, seed=4)
    assert encoder.name == "c2s"
    assert (encoder.batch_size, encoder.seed) == (3, 4)
    assert encoder.digest() == C2SEncoder(load_model(tmp_path, device="cpu"), seed=4).digest()


@pytest.mark.skipif(
    importlib.util.find_spec("scvi") is None, reason="scvi-tools is an extra that is not installed"
)
def test_scvi_is_trained_on_counts_or_read(recorded, training):
    from c2s.encoders.scvi import ScviEncoder

    calls = recorded(ScviEncoder, "load")
    open_encoder("scvi:folder", device="cpu")
    assert calls == [(("folder",), {})]
    calls = recorded(ScviEncoder, "fit")
    counts = sp.csr_matrix((3, 900))
    open_encoder("scvi", training=training, counts=counts, device="cpu", seed=4)
    (((found, vocabulary), options),) = calls
    assert found is counts
    assert vocabulary is training[1]
    assert options == {"device": "cpu", "seed": 4}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("umap", r"found 'umap', expected one of: pca, pca:NUMBER or pca:FILE.npz; scvi"),
        ("", r"found '', expected one of"),
        ("PCA", r"found 'PCA', expected one of"),
        ("scgpt", r"found 'scgpt', expected scgpt:FOLDER"),
        ("geneformer:", r"found 'geneformer:', expected geneformer:FOLDER"),
        ("c2s", r"found 'c2s', expected c2s:FOLDER_OR_ID"),
        ("pca", r"'pca' is fitted on real training cells, and there are none; give them, or pca"),
        ("scvi", r"'scvi' is fitted on real training cells, and there are none"),
        ("pca:0", r"n_components: found 0, expected at least 1"),
        ("pca:-3", r"n_components: found -3, expected at least 1"),
    ],
)
def test_what_cannot_be_opened(spec, message):
    with pytest.raises(UsageError, match=message):
        open_encoder(spec)


def test_scvi_without_counts(training):
    with pytest.raises(UsageError, match="'scvi' is trained on raw counts, and there are none"):
        open_encoder("scvi", training=training)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_what_is_not_there(kind, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        open_encoder(f"{kind}:{tmp_path / 'nowhere'}")
