"""The kernel where its short cuts end: equal halves of tie hashes, very many columns."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.cells import kernels
from c2s.cells.ranked import _unmix64
from c2s.common.seeds import mix64


def ranked(counts: np.ndarray, columns: np.ndarray, gene_keys: np.ndarray, top_k: int) -> list[int]:
    """Rank one row with a cell key of 0, so that the tie key of a gene is `mix64` of its own."""
    counts, columns = counts.astype(np.float32), columns.astype(np.int32)
    indptr = np.array([0, len(counts)], np.int32)
    limits = np.array([min(top_k, len(counts))])
    out = np.full(limits[0], -1, np.int32)
    values = np.empty(limits[0], np.float32)
    kernels.rank_rows(
        counts, columns, indptr, np.zeros(1, np.uint64), gene_keys, np.ones(1, bool), False, limits,
        np.array([0, limits[0]]), out, values,
    )  # fmt: skip
    assert (np.diff(values) <= 0).all()
    return out.tolist()


@pytest.mark.parametrize("top_k", [1, 10, 300])
def test_ties_whose_hashes_share_their_upper_half_are_told_apart_by_the_lower(top_k: int) -> None:
    rng = np.random.default_rng(0)
    n = 300
    # 8 upper halves for 300 genes, lower halves all different.
    hashes = (rng.integers(0, 8, n).astype(np.uint64) << np.uint64(32)) | rng.permutation(n).astype(
        np.uint64
    )
    counts = rng.integers(1, 4, n)
    keys = _unmix64(hashes)
    np.testing.assert_array_equal(mix64(keys), hashes)
    expected = np.lexsort((np.arange(n), hashes, -counts))[:top_k]
    assert ranked(counts, np.arange(n), keys, top_k) == expected.tolist()


def test_genes_of_one_whole_hash_stand_in_column_order() -> None:
    keys = np.zeros(50, np.uint64)
    columns = np.random.default_rng(1).permutation(50)
    assert ranked(np.ones(50), columns, keys, 50) == list(range(50))


def test_columns_that_do_not_fit_into_a_packed_gene_are_ranked_by_comparison() -> None:
    n_genes = (1 << 24) + 10
    keys = np.zeros(n_genes, np.uint64)
    columns = np.array([3, 1 << 24, (1 << 24) + 7, 12, (1 << 24) + 3])
    counts = np.array([1, 2, 2, 5, 1])
    expected = [12, 1 << 24, (1 << 24) + 7, 3, (1 << 24) + 3]
    assert ranked(counts, columns, keys, 5) == expected
