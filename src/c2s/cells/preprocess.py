"""Quality control and normalisation of SPEC §1, with a record of what was done kept in `uns`."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import BaseModel, ConfigDict, Field

from c2s.cells.checks import MatrixKind, check_expression, matrix_kind
from c2s.cells.readers import csr_blocks, expression
from c2s.cells.vocabulary import ENSEMBL_ID, SYMBOL_COLUMNS
from c2s.common.errors import InputError, UsageError, warn

#: Where this package keeps its records in `adata.uns`.
UNS_KEY = "c2s"


class PreprocessConfig(BaseModel):
    """How raw counts become normalised expression. It is saved with every product (SPEC §1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_sum: float = Field(
        default=1e4,
        gt=0,
        description="Total that every cell is scaled to before the logarithm. Published for CosMx"
        " only; not specified by the paper for the corpus.",
    )
    log_base: Literal[10] = Field(default=10, description="Base of the logarithm log10(1 + x).")
    min_genes: int = Field(
        default=200,
        ge=0,
        description="Cells that express fewer genes are dropped; not specified by the paper.",
    )
    min_cells: int = Field(
        default=3,
        ge=0,
        description="Genes expressed in fewer of the kept cells are dropped; not specified by the"
        " paper.",
    )
    max_genes: int | None = Field(
        default=None,
        ge=1,
        description="Cells that express more genes are dropped; None keeps them. Not specified by"
        " the paper.",
    )
    max_pct_mt: float | None = Field(
        default=20.0,
        ge=0,
        le=100,
        description="Cells with a larger percentage of mitochondrial counts are dropped, where"
        " mitochondrial genes are recognised; None keeps them, as is right for single nuclei. Not"
        " specified by the paper.",
    )

    def digest(self) -> str:
        """Return 12 hexadecimal digits of the SHA-256 of the configuration as JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def gene_symbols(var: pd.DataFrame) -> np.ndarray:
    """Return the symbol of every gene as written, or its name where no symbol is known.

    Parameters
    ----------
    var
        The table of genes. A name that is an Ensembl id is replaced by the symbol in the first of
        `c2s.cells.vocabulary.SYMBOL_COLUMNS` that the table has.

    Returns
    -------
    object array, shape (n_genes,)
    """
    names = var.index.astype(str).to_numpy(dtype=object)
    column = next((c for c in SYMBOL_COLUMNS if c in var), None)
    if column is None:
        return names
    given = var[column].astype(object)
    usable = given.notna().to_numpy() & np.array([bool(ENSEMBL_ID.match(n)) for n in names], bool)
    symbols = names.copy()
    symbols[usable] = given.astype(str).to_numpy(dtype=object)[usable]
    return symbols


def is_mitochondrial(var: pd.DataFrame) -> np.ndarray:
    """Return which genes are mitochondrial: a symbol that begins with MT- in any case.

    Returns
    -------
    bool array, shape (n_genes,)
    """
    symbols = pd.Series(gene_symbols(var), dtype=object).astype(str)
    return symbols.str.upper().str.startswith("MT-").to_numpy(dtype=bool)


def quality_control(adata: ad.AnnData, config: PreprocessConfig | None = None) -> ad.AnnData:
    """Drop poor cells, then rare genes (SPEC §1).

    Parameters
    ----------
    adata
        Cells × genes with counts in `X`. It is not changed. Backed data are read into memory after
        the choice is made.
    config
        The thresholds; the defaults where it is not given.

    Returns
    -------
    AnnData
        A copy without the dropped cells and genes. `uns["c2s"]["quality_control"]` says what was
        dropped and why; a cell that fails two thresholds is counted under both.

    Raises
    ------
    InputError
        A value is NaN, infinite or negative, or no cell or no gene is left.
    """
    config = config or PreprocessConfig()
    matrix, var = expression(adata)
    check_expression(matrix, cell_ids=adata.obs_names, gene_names=adata.var_names, source="X")
    mitochondrial = is_mitochondrial(var)
    n_genes, pct_mt = _cell_statistics(matrix, mitochondrial)
    max_pct_mt, mt_note = config.max_pct_mt, f"applied to {int(mitochondrial.sum())} genes"
    if max_pct_mt is None:
        mt_note = "switched off"
    elif not mitochondrial.any():
        max_pct_mt, mt_note = None, "not applied: no mitochondrial gene was recognised"
    elif matrix_kind(matrix) == "logged":
        max_pct_mt, mt_note = (
            None,
            "not applied: the values are logged, so they have no percentages",
        )
    reasons = {
        "min_genes": n_genes < config.min_genes,
        "max_genes": n_genes > (np.inf if config.max_genes is None else config.max_genes),
        "max_pct_mt": pct_mt > (np.inf if max_pct_mt is None else max_pct_mt),
    }
    cells = ~np.logical_or.reduce(list(reasons.values()))
    if not cells.any():
        raise InputError(
            f"quality control leaves none of {adata.n_obs:,} cells ("
            + ", ".join(f"{name} drops {int(bad.sum()):,}" for name, bad in reasons.items())
            + f"; the median cell expresses {np.median(n_genes):,.0f} genes); set thresholds that"
            " suit these data"
            if adata.n_obs
            else "quality control was given data without cells"
        )
    genes = _cells_per_gene(matrix, cells) >= config.min_cells
    if not genes.any():
        raise InputError(
            f"quality control leaves no gene: none of {adata.n_vars:,} is expressed in"
            f" {config.min_cells:,} of {int(cells.sum()):,} kept cells; lower min_cells"
        )
    chosen = adata[cells, genes]
    kept = chosen.to_memory() if adata.isbacked else chosen.copy()
    _record(
        kept,
        "quality_control",
        {
            "config": config.model_dump_json(),
            "digest": config.digest(),
            "cells_before": adata.n_obs,
            "cells_after": kept.n_obs,
            "genes_before": adata.n_vars,
            "genes_after": kept.n_vars,
            "cells_dropped": {name: int(bad.sum()) for name, bad in reasons.items()},
            "genes_dropped": {"min_cells": adata.n_vars - kept.n_vars},
            "mitochondrial_filter": mt_note,
        },
    )
    return kept


def _cell_statistics(matrix: Any, mitochondrial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the expressed genes and the percentage of mitochondrial counts of every cell."""
    n_genes = np.zeros(matrix.shape[0], dtype=np.int64)
    pct_mt = np.zeros(matrix.shape[0])
    for rows, block in csr_blocks(matrix):
        block = block.astype(np.float64)
        total, mt = block @ np.ones(block.shape[1]), block @ mitochondrial.astype(np.float64)
        n_genes[rows] = np.diff(_expressed(block).indptr)
        pct_mt[rows] = 100 * mt / np.where(total > 0, total, 1)
    return n_genes, pct_mt


def _cells_per_gene(matrix: Any, cells: np.ndarray) -> np.ndarray:
    """Return in how many of the chosen cells every gene is expressed."""
    found = np.zeros(matrix.shape[1], dtype=np.int64)
    for rows, block in csr_blocks(matrix):
        found += np.bincount(_expressed(block[cells[rows]]).indices, minlength=len(found))
    return found


def _expressed(block: sp.csr_matrix) -> sp.csr_matrix:
    """Return a block without stored zeros."""
    if block.data.all():
        return block
    block = block.copy()
    block.eliminate_zeros()
    return block


def log10_normalized(matrix: sp.csr_matrix, target_sum: float = 1e4) -> sp.csr_matrix:
    """Scale every cell to the same total and take log10(1 + x) (SPEC §1).

    Parameters
    ----------
    matrix : csr_matrix, shape (n_cells, n_genes)
        Counts or abundances, not negative.
    target_sum
        The total that every cell is scaled to.

    Returns
    -------
    csr_matrix of float32, shape (n_cells, n_genes)
        With the places of `matrix`; its index arrays are copies. Cells without counts stay zero.
    """
    values = matrix.data.astype(np.float64)
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), lengths)
    total = np.bincount(row, weights=values[: len(row)], minlength=matrix.shape[0])
    scale = target_sum / np.where(total > 0, total, 1.0)
    values = np.log1p(values[: len(row)] * scale[row]) / np.log(10.0)
    parts = (values.astype(np.float32), matrix.indices[: len(row)].copy(), matrix.indptr.copy())
    return sp.csr_matrix(parts, shape=matrix.shape)


def normalize(
    adata: ad.AnnData,
    *,
    target_sum: float = 1e4,
    layer: str | None = None,
    kind: MatrixKind | None = None,
    copy: bool = False,
) -> ad.AnnData | None:
    """Replace `X` by log10(1 + x) of counts scaled to the same total in every cell (SPEC §1).

    The logarithm has base 10, not e: the rank–expression line of SPEC §3 is fitted to it.

    Parameters
    ----------
    adata
        Cells × genes, in memory.
    target_sum
        The total that every cell is scaled to; 10,000 by default (not specified by the paper).
    layer
        Where counts are taken from: None for `X`, ``"raw"`` for `adata.raw` (which must have the
        same genes), else a layer. The result goes to `X` always.
    kind
        What the values are, where the guess of `matrix_kind` would be wrong; no warning then.
    copy
        Leave `adata` as it is and return a new object.

    Returns
    -------
    AnnData or None
        The new object with ``copy=True``. `X` is float32, dense where the input was dense and CSR
        otherwise. `uns["c2s"]["preprocess"]` keeps the configuration and what the input was.

    Raises
    ------
    InputError
        A value is NaN, infinite or negative.
    UsageError
        There is no such layer, the data are backed, or `target_sum` is not positive.

    Notes
    -----
    Unlogged abundances (TPM, expected counts) are treated as counts, logged values are left as they
    are, and so are data that this function has normalised before; each with a `C2SWarning`.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> adata = ad.AnnData(np.array([[1, 0, 9]]))
    >>> normalize(adata)
    >>> adata.X.round(4).tolist()
    [[3.0004000663757324, 0.0, 3.9542999267578125]]
    """
    if not target_sum > 0 or not np.isfinite(target_sum):
        raise UsageError(f"target_sum is {target_sum}; a positive number is expected")
    source = "X" if layer is None else f"layer {layer!r}"
    matrix = _matrix_to_normalize(adata, layer, source)
    found = kind or matrix_kind(matrix)
    done = adata.uns.get(UNS_KEY, {}).get("preprocess", {})
    if layer is None and kind is None and found == "logged" and done.get("log_base") == 10:
        warn(
            f"X was normalised by c2s before, to {done['target_sum']:g} per cell, and is left as it"
            " is; to normalise anew start from counts, e.g. with layer="
        )
        return adata.copy() if copy else None
    if found == "abundances" and kind is None:
        warn(
            f"{source} holds numbers that are not integers, up to 30 or more: taken as counts, as"
            " is right for TPM or expected counts"
        )
    if found == "logged" and kind is None:
        warn(
            f"{source} looks logged already and is taken as it is; where it is not log10(1 + x),"
            " give the counts with layer="
        )
    if copy:
        adata = adata.copy()
    elif adata.is_view:
        # Setting X of a view writes into its parent; setting uns makes it an object of its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
            adata.uns = dict(adata.uns)
    record: dict[str, Any] = {"input": found, "layer": layer or "X"}
    if found != "logged":
        adata.X = _normalized(matrix, target_sum)
        record |= {"target_sum": float(target_sum), "log_base": 10}
    elif layer is not None:
        adata.X = matrix.copy()
    _record(adata, "preprocess", record)
    return adata if copy else None


def _matrix_to_normalize(adata: ad.AnnData, layer: str | None, source: str) -> Any:
    """Return the matrix that `normalize` starts from, or refuse it."""
    if adata.isbacked:
        raise UsageError(
            "the data are backed by a file, and normalising would change that file; use"
            " adata.to_memory() first"
        )
    matrix, var = expression(adata, layer)
    if not var.index.equals(adata.var_names):
        raise UsageError(
            f"adata.raw has {len(var):,} genes and adata has {adata.n_vars:,}, and they differ;"
            " start from adata.raw.to_adata()"
        )
    check_expression(matrix, cell_ids=adata.obs_names, gene_names=var.index, source=source)
    return matrix


def _normalized(matrix: Any, target_sum: float) -> Any:
    """Return the normalised matrix, dense where it was dense and CSR otherwise."""
    if not sp.issparse(matrix):
        dense = np.empty(matrix.shape, dtype=np.float32)
        for rows, block in csr_blocks(matrix):
            dense[rows] = log10_normalized(block, target_sum).toarray()
        return dense
    blocks = [log10_normalized(block, target_sum) for _, block in csr_blocks(matrix)]
    return sp.vstack(blocks, format="csr") if blocks else matrix.tocsr().astype(np.float32)


def _record(adata: ad.AnnData, name: str, values: dict[str, Any]) -> None:
    """Keep a record in `uns["c2s"]`, without changing a dictionary that another object shares."""
    adata.uns[UNS_KEY] = {**adata.uns.get(UNS_KEY, {}), name: values}
