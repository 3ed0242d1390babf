"""What is in a data set, and what would go wrong with it: the work behind `c2s inspect`.

Nothing is refused here: values that other functions refuse are reported, with the way to mend them.
From a file only the tables of cells and genes are held in memory; the matrix is read in blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.checks import MatrixKind, Scan, entries, scan
from c2s.cells.preprocess import PreprocessConfig, gene_symbols
from c2s.cells.readers import expression, read
from c2s.cells.vocabulary import ADD_SYMBOLS, ENSEMBL_ID, SYMBOL_COLUMNS
from c2s.common.errors import InputError, listing

#: A column of `obs` with as many different values as this may be a label.
LABEL_LEVELS = (2, 200)


@dataclass(frozen=True)
class Problem:
    """Something that would go wrong, and how to mend it."""

    text: str
    mend: str


@dataclass(frozen=True)
class LabelColumn:
    """A column of `obs` that may hold labels of cells."""

    name: str
    levels: int
    """How many different values it has."""
    commonest: str
    """Its commonest value."""
    share: float
    """Share of all cells that have the commonest value."""


@dataclass(frozen=True)
class GeneIds:
    """What the genes are called."""

    kind: Literal["symbols", "ensembl", "mixed"]
    n_symbols: int
    n_ensembl: int
    symbol_column: str | None
    """The column of `var` with symbols, such as `feature_name`."""
    organism: Literal["human", "mouse", "unknown"]
    """A guess from the prefix of ids, or from the case of symbols."""
    n_duplicated: int
    """Genes whose symbol another gene has too, written the same."""
    n_case_colliding: int
    """Genes whose symbol differs from another gene's only in case."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found in one matrix of a data set."""

    source: str
    layer: str
    n_cells: int
    n_genes: int
    kind: Literal["counts", "abundances", "logged", "scaled", "invalid"]
    """As `c2s.cells.checks.matrix_kind`; scaled: with negatives; invalid: with NaN or infinity."""
    maximum: float
    sparsity: float
    """Share of zeros among all values."""
    median_total: float
    """Median over cells of the sum of values (counts per cell where `kind` is counts)."""
    median_genes: float
    """Median over cells of the number of genes that are not zero."""
    n_empty_cells: int
    dtype: str
    storage: str
    """Such as `csr in memory` or `csc on disk`."""
    genes: GeneIds
    labels: list[LabelColumn]
    layers: list[str]
    has_raw: bool
    obsm: list[str]
    problems: list[Problem] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that `json.dumps` takes."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of a name and a value for a table, problems not included."""
        g = self.genes
        ids = {"symbols": "symbols", "ensembl": "Ensembl ids"}.get(
            g.kind, f"{g.n_symbols:,} symbols and {g.n_ensembl:,} Ensembl ids"
        )
        if g.symbol_column:
            ids += f", symbols in var[{g.symbol_column!r}]"
        unit = "counts" if self.kind == "counts" else "sum of values"
        labels = [f"{c.name} ({c.levels}; {c.share:.0%} {c.commonest})" for c in self.labels]
        return [
            ("cells", f"{self.n_cells:,}"),
            ("genes", f"{self.n_genes:,}"),
            ("matrix", f"{self.layer}, {self.dtype}, {self.storage}"),
            ("values", f"{self.kind}, maximum {self.maximum:,.6g}"),
            ("zeros", f"{self.sparsity:.1%}"),
            (f"{unit} per cell, median", f"{self.median_total:,.6g}"),
            ("genes per cell, median", f"{self.median_genes:,.6g}"),
            ("empty cells", f"{self.n_empty_cells:,}"),
            ("gene names", ids),
            ("organism, a guess", g.organism),
            ("duplicated symbols", f"{g.n_duplicated:,}"),
            ("symbols that differ only in case", f"{g.n_case_colliding:,}"),
            ("label columns", listing(labels, 8) or "none"),
            ("layers", listing(self.layers) or "none"),
            (".raw", "yes" if self.has_raw else "no"),
            ("obsm", listing(self.obsm) or "none"),
        ]


def inspect(source: str | os.PathLike[str] | ad.AnnData, layer: str | None = None) -> Inspection:
    """Say what is in a data set and what would go wrong with it.

    Parameters
    ----------
    source
        A file that `c2s.cells.readers.read` opens, or an `AnnData`, in memory or backed. An h5ad or
        zarr is read in blocks.
    layer
        The matrix to look at: None for `X`, ``"raw"`` for `adata.raw`, else a layer.

    Returns
    -------
    Inspection

    Raises
    ------
    InputError
        The file is missing or damaged.
    UsageError
        There is no such layer.
    """
    name = "AnnData" if isinstance(source, ad.AnnData) else str(source)
    with _opened(source) as adata, _reading_blocks(name):
        matrix, var = expression(adata, layer)
        found = scan(matrix)
        totals, n_genes = _per_cell(matrix)
        inspection = Inspection(
            source=name,
            layer=layer or "X",
            n_cells=int(matrix.shape[0]),
            n_genes=int(matrix.shape[1]),
            kind=_kind(found),
            maximum=found.maximum,
            sparsity=1 - found.n_nonzero / max(1, matrix.shape[0] * matrix.shape[1]),
            median_total=float(np.median(totals)) if len(totals) else 0.0,
            median_genes=float(np.median(n_genes)) if len(n_genes) else 0.0,
            n_empty_cells=int((n_genes == 0).sum()),
            dtype=str(matrix.dtype),
            storage=_storage(matrix),
            genes=_gene_ids(var),
            labels=_label_columns(adata.obs),
            layers=[str(key) for key in adata.layers],
            has_raw=adata.raw is not None,
            obsm=[str(key) for key in adata.obsm],
        )
        _find_problems(inspection, found, n_genes, adata, var)
    return inspection


# --- opening without loading ------------------------------------------------------------------


class _Lazy:
    """The parts of an h5ad or zarr that are looked at here, with every matrix left on disk.

    anndata's own backed mode leaves only `X` on disk, and loads layers and obsm whole.
    """

    def __init__(self, group: Any) -> None:
        self.obs: pd.DataFrame = ad.io.read_elem(group["obs"])
        self.var: pd.DataFrame = ad.io.read_elem(group["var"])
        self.obs_names, self.var_names = self.obs.index, self.var.index
        self.X = _on_disk(group["X"]) if "X" in group else None
        layers = group.get("layers", {})
        self.layers = {key: _on_disk(layers[key]) for key in layers}
        self.obsm = list(group["obsm"]) if "obsm" in group else []
        self.raw = _LazyRaw(group["raw"]) if "raw" in group else None


class _LazyRaw:
    def __init__(self, group: Any) -> None:
        self.X = _on_disk(group["X"])
        self.var: pd.DataFrame = ad.io.read_elem(group["var"])


def _on_disk(element: Any) -> Any:
    return element if hasattr(element, "shape") else ad.io.sparse_dataset(element)


@contextmanager
def _opened(source: str | os.PathLike[str] | ad.AnnData) -> Iterator[Any]:
    """Yield an AnnData, or something that looks like one with its matrices on disk."""
    if isinstance(source, ad.AnnData):
        yield source
        return
    path = Path(source)
    with _groups(path) as group:
        lazy = None
        # Files of old anndata versions, or damaged ones, are for `read`, which says what is wrong.
        with suppress(Exception):
            if group is not None and "encoding-type" in group["obs"].attrs:
                lazy = _Lazy(group)
        if lazy is not None:
            yield lazy
            return
    adata = read(path, backed=path.name.lower().endswith(".h5ad"))
    try:
        yield adata
    finally:
        if adata.isbacked:
            adata.file.close()


@contextmanager
def _reading_blocks(name: str) -> Iterator[None]:
    """Explain a file whose tables can be read and whose matrix cannot."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name}: the matrix cannot be read ({' '.join(str(error).split())[:160]}); the file is"
            " damaged, so copy or download it again"
        ) from error


@contextmanager
def _groups(path: Path) -> Iterator[Any]:
    """Yield the open root of an h5ad or a zarr store, None if it is neither or cannot be opened."""
    import h5py
    import zarr

    group = None
    with suppress(Exception):
        if path.is_dir() and path.name.lower().endswith(".zarr"):
            group = zarr.open_group(path, mode="r")
        elif path.name.lower().endswith(".h5ad"):
            group = h5py.File(path, "r")
    try:
        yield group
    finally:
        if isinstance(group, h5py.File):
            group.close()


# --- what is looked at ------------------------------------------------------------------------


def _kind(found: Scan) -> Literal["counts", "abundances", "logged", "scaled", "invalid"]:
    if found.n_not_finite:
        return "invalid"
    return "scaled" if found.n_negative else found.kind


def _storage(matrix: Any) -> str:
    if isinstance(matrix, np.ndarray):
        return "dense in memory"
    if sp.issparse(matrix):
        return f"{matrix.format} in memory"
    return f"{getattr(matrix, 'format', None) or 'dense'} on disk"


def _per_cell(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of values (finite ones) and the number of non-zero values of every cell."""
    totals = np.zeros(matrix.shape[0])
    n_genes = np.zeros(matrix.shape[0], dtype=np.int64)
    for chunk in entries(matrix):
        rows, _ = chunk.places()
        if not len(rows):
            continue
        low, high = int(rows.min()), int(rows.max()) + 1
        values = np.nan_to_num(chunk.values.astype(np.float64), posinf=0.0, neginf=0.0)
        totals[low:high] += np.bincount(rows - low, weights=values, minlength=high - low)
        n_genes[low:high] += np.bincount(rows[chunk.values != 0] - low, minlength=high - low)
    return totals, n_genes


def _gene_ids(var: pd.DataFrame) -> GeneIds:
    ids = np.array([bool(ENSEMBL_ID.match(str(name))) for name in var.index], dtype=bool)
    symbols = pd.Series(gene_symbols(var), dtype=object).astype(str)
    folded = symbols.str.upper()
    same, same_folded = symbols.duplicated(keep=False), folded.duplicated(keep=False)
    n_ensembl = int(ids.sum())
    n_symbols = len(var) - n_ensembl
    return GeneIds(
        kind="mixed" if n_ensembl and n_symbols else "ensembl" if n_ensembl else "symbols",
        n_symbols=n_symbols,
        n_ensembl=n_ensembl,
        symbol_column=next((c for c in SYMBOL_COLUMNS if c in var), None),
        organism=_organism(var.index.astype(str)[ids], symbols[~ids]),
        n_duplicated=int(same.sum()),
        n_case_colliding=_case_colliding(symbols[same_folded], folded[same_folded]),
    )


def _case_colliding(symbols: pd.Series, folded: pd.Series) -> int:
    """Return how many of the symbols have a different spelling with the same letters."""
    spellings = symbols.groupby(folded.to_numpy()).nunique()
    return int(folded.isin(spellings.index[spellings > 1]).sum())


def _organism(ids: pd.Index, symbols: pd.Series) -> Literal["human", "mouse", "unknown"]:
    """Guess from Ensembl prefixes, else from the case: human symbols are upper case, mostly."""
    if len(ids):
        human, mouse = (
            float(ids.str.upper().str.match(prefix).mean()) for prefix in (r"ENSG\d", r"ENSMUSG\d")
        )
    else:
        lettered = symbols[symbols.str.contains("[A-Za-z]{2}", regex=True)]
        human = float(lettered.str.isupper().mean()) if len(lettered) else 0.0
        mouse = float(lettered.str.match(r"[A-Z][a-z0-9]+").mean()) if len(lettered) else 0.0
    return "human" if human > 0.7 else "mouse" if mouse > 0.7 else "unknown"


def _label_columns(obs: pd.DataFrame) -> list[LabelColumn]:
    """Return the columns of words that repeat; those named like cell types first."""
    columns = []
    for name in obs.columns:
        column = obs[name]
        if not (isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind in "OUT"):
            continue
        counts = column.dropna().astype(str).value_counts()
        if LABEL_LEVELS[0] <= len(counts) <= min(LABEL_LEVELS[1], len(obs) - 1):
            share = float(counts.iloc[0] / len(obs))
            columns.append(LabelColumn(str(name), len(counts), str(counts.index[0]), share))
    likely = ("cell_type", "celltype", "cell type", "annot", "label")
    return sorted(columns, key=lambda c: not any(word in c.name.lower() for word in likely))


# --- what would go wrong ----------------------------------------------------------------------


def _find_problems(
    inspection: Inspection, found: Scan, n_genes: np.ndarray, adata: Any, var: pd.DataFrame
) -> None:
    """Add to `inspection.problems` what would go wrong, the gravest first."""
    inspection.problems.extend(
        [
            *_value_problems(inspection, found, adata, var),
            *_cell_problems(inspection, n_genes, adata.obs_names),
            *_gene_problems(inspection.genes, var),
            *_storage_problems(inspection),
        ]
    )


def _value_problems(
    inspection: Inspection, found: Scan, adata: Any, var: pd.DataFrame
) -> Iterator[Problem]:
    if not inspection.n_cells or not inspection.n_genes:
        yield Problem("the matrix is empty", "choose another file or layer")
        return
    for place, n, what in (
        (found.first_not_finite, found.n_not_finite, "NaN or infinite"),
        (found.first_negative, found.n_negative, "negative, so the data look scaled"),
    ):
        if place is not None:
            yield Problem(
                f"{n:,} values are {what} (first: cell {adata.obs_names[place.row]}, gene"
                f" {var.index[place.column]}, {place.value:.4g})",
                _other_matrix(inspection, adata, {"counts", "abundances", "logged"})
                or "go back to the file with raw counts; no other matrix here can be used",
            )
    if inspection.kind == "abundances":
        yield Problem(
            "the values are neither integers nor logged (TPM or expected counts?)",
            "they are taken as counts; use raw counts where you have them",
        )
    if inspection.kind == "logged":
        yield Problem(
            "the values are logged already and will be taken as they are",
            _other_matrix(inspection, adata, {"counts"})
            or "use raw counts where you have them; where not, make sure of log10(1 + x)",
        )


def _other_matrix(inspection: Inspection, adata: Any, kinds: set[MatrixKind]) -> str | None:
    """Return advice that names another matrix of the data set, counts before other kinds."""
    others = [None, *(["raw"] if inspection.has_raw else []), *inspection.layers]
    usable: list[tuple[str, MatrixKind]] = []
    for name in others:
        if (name or "X") == inspection.layer or (name is None and adata.X is None):
            continue
        found = scan(expression(adata, name)[0])
        if not found.n_not_finite and not found.n_negative and found.kind in kinds:
            usable.append(("X" if name is None else f"layer {name!r}", found.kind))
    if not usable:
        return None
    name, kind = min(usable, key=lambda pair: pair[1] != "counts")
    return f"use {name}, which holds {_KIND_WORDS[kind]}"


_KIND_WORDS: dict[MatrixKind, str] = {
    "counts": "counts",
    "abundances": "unlogged abundances",
    "logged": "logged values",
}


def _cell_problems(
    inspection: Inspection, n_genes: np.ndarray, names: pd.Index
) -> Iterator[Problem]:
    if inspection.n_empty_cells:
        first = names[int(np.flatnonzero(n_genes == 0)[0])]
        yield Problem(
            f"{inspection.n_empty_cells:,} cells express nothing (first: {first})",
            "they have no sentence; drop them, as quality control does",
        )
    minimum = PreprocessConfig().min_genes
    few = int(((n_genes > 0) & (n_genes < minimum)).sum())
    if few:
        yield Problem(
            f"{few:,} cells express fewer than {minimum} genes",
            "quality control drops them by default; for a gene panel set min_genes lower",
        )
    repeated = names[names.duplicated()]
    if len(repeated):
        yield Problem(
            f"{len(repeated):,} cells repeat the name of another ({listing(list(repeated), 3)})",
            "-1, -2, … will be added; use adata.obs_names_make_unique() to choose the names",
        )
    if not inspection.labels:
        yield Problem(
            "no column of obs looks like labels (words with 2 to 200 different values)",
            "training on cell types and measuring annotation need one; add it to obs",
        )


def _gene_problems(genes: GeneIds, var: pd.DataFrame) -> Iterator[Problem]:
    symbols = gene_symbols(var)
    ids = sum(bool(ENSEMBL_ID.match(str(symbol))) for symbol in symbols)
    if ids:
        yield Problem(
            f"{ids:,} of {len(var):,} genes have an Ensembl id and no symbol",
            ADD_SYMBOLS,
        )
    spaced = [s for s in map(str, symbols) if not s or any(c.isspace() for c in s)]
    if spaced:
        yield Problem(
            f"{len(spaced):,} gene names are empty or contain white space"
            f" ({listing([repr(s) for s in spaced], 3)})",
            "a cell sentence separates genes by spaces; rename or drop these",
        )
    if genes.n_duplicated or genes.n_case_colliding:
        yield Problem(
            f"{genes.n_duplicated:,} genes share a symbol and {genes.n_case_colliding:,} differ"
            " from another only in case",
            "they stay distinct, as words such as SYMBOL_2; merge or rename them if that is wrong",
        )


def _storage_problems(inspection: Inspection) -> Iterator[Problem]:
    if inspection.storage == "csc on disk":
        yield Problem(
            "the matrix is stored by gene (CSC) on disk",
            "reading cells loads all of it; write it once as CSR: adata.X = adata.X.tocsr()",
        )
    elif inspection.storage == "csc in memory":
        yield Problem(
            "the matrix is stored by gene (CSC)",
            "it is converted at every use; convert it once: adata.X = adata.X.tocsr()",
        )
    elif inspection.storage.startswith("dense") and inspection.sparsity > 0.6:
        yield Problem(
            f"the matrix is dense although {inspection.sparsity:.0%} of it is zero",
            "it takes several times the memory; use adata.X = scipy.sparse.csr_matrix(adata.X)",
        )
