"""Cells placed by an encoder, and the record of which."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import c2s
from c2s.cells.preprocess import log10_normalized
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.encoders.base import encoder_id
from c2s.encoders.pca import PCAEncoder


@pytest.fixture
def adata():
    return c2s.datasets.pancreas()[:60].copy()


def test_places_and_the_name_of_the_encoder_are_written(adata):
    matrix = log10_normalized(sp.csr_matrix(adata.X, dtype=np.float32))
    encoder = PCAEncoder(4).fit(matrix, GeneVocabulary.from_var(adata.var))
    before = adata.X.copy()
    c2s.tl.encode(adata, encoder)
    np.testing.assert_allclose(adata.obsm["X_pca"], encoder.transform(matrix), atol=1e-5)
    assert adata.uns["c2s"]["encode"]["model"] == encoder_id(encoder)
    assert (before != adata.X).nnz == 0
    c2s.tl.encode(adata, encoder)  # its own key may be written again


def test_an_encoder_by_name_is_fitted_on_the_cells(adata, tmp_path):
    other = c2s.tl.encode(adata, "pca:3", key_added="X_three", copy=True)
    assert other.obsm["X_three"].shape == (60, 3)
    assert "X_three" not in adata.obsm
    other.write_h5ad(tmp_path / "encoded.h5ad")
    assert ad.read_h5ad(tmp_path / "encoded.h5ad").uns["c2s"]["encode"]["model"].startswith("pca-")


def test_keys_of_others_are_not_overwritten(adata):
    adata.obsm["X_pca"] = np.zeros((60, 2))
    with pytest.raises(UsageError, match="was not written by c2s"):
        c2s.tl.encode(adata, "pca:3")
