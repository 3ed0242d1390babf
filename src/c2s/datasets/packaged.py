"""The packaged data sets."""

from __future__ import annotations

import io
import lzma
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

PANCREAS_CITATION = (
    "Baron et al. 2016, A single-cell transcriptomic map of the human and mouse pancreas reveals inter- "
    "and intra-cell population structure, Cell Systems 3(4):346-360; GEO accession GSE84133, human donor 1"
)
PBMC68K_CITATION = (
    "Zheng et al. 2017, Massively parallel digital transcriptional profiling of single cells, "
    "Nature Communications 8:14049; the reduced subset that comes with scanpy"
)


def pancreas() -> AnnData:
    """Human pancreas, donor 1 of Baron et al. 2016 (GSE84133): raw counts of all genes.

    Returns
    -------
    AnnData
        1,937 cells × 20,125 genes. `X`: CSR float32 holding raw UMI counts. `obs`: `cell_type`
        (14 published labels), `tissue`, `organism`, `donor`, `assay`. `uns["citation"]`: the source.
        Gene names are symbols; where the source went through R and has `HLA.A`, this has `HLA-A`.

    Examples
    --------
    >>> import c2s
    >>> c2s.datasets.pancreas().shape
    (1937, 20125)
    """
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    packed = files("c2s.datasets").joinpath("data/pancreas.npz.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed))) as arrays:
        lengths = arrays["row_lengths"].astype(np.int64)
        gaps = arrays["column_gaps"].astype(np.int64)
        counts = arrays["counts"].astype(np.float32)
        genes, cells, labels = (str(arrays[k]).split("\n") for k in ("genes", "cells", "labels"))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    total = np.cumsum(gaps)
    before_row = np.concatenate([[0], total])[indptr[:-1]]
    indices = (total - np.repeat(before_row, lengths)).astype(np.int32)
    adata = AnnData(
        X=sp.csr_matrix((counts, indices, indptr.astype(np.int32)), shape=(len(cells), len(genes))),
        obs=pd.DataFrame({"cell_type": pd.Categorical(labels)}, index=cells),
        var=pd.DataFrame(index=genes),
    )
    for column, value in {
        "tissue": "pancreas",
        "organism": "Homo sapiens",
        "donor": "human1",
        "assay": "inDrop",
    }.items():
        adata.obs[column] = pd.Categorical([value] * len(cells))
    adata.uns["citation"] = PANCREAS_CITATION
    return adata


def pbmc68k() -> AnnData:
    """Peripheral blood cells of Zheng et al. 2017, as reduced by scanpy: log-normalised, no counts.

    Returns
    -------
    AnnData
        700 cells × 765 genes. `X`: log-normalised expression (natural logarithm), taken from scanpy's
        `.raw`; scanpy's own `X` is scaled and cannot be ranked. `obs`: `cell_type` (10 labels) and
        scanpy's columns. Only 765 genes were kept by scanpy, so its sentences are short.
    """
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.obs["cell_type"] = adata.obs["bulk_labels"]
    adata.obs["organism"] = "Homo sapiens"
    adata.obs["tissue"] = "blood"
    adata.uns["citation"] = PBMC68K_CITATION
    return adata
