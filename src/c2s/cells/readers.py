"""Opening data sets: h5ad, zarr, 10x h5 and mtx, loom and text tables, all as an `AnnData`.

`read` opens a file, `expression` chooses `X`, a layer or `.raw`, and `csr_blocks` walks over the
chosen matrix in blocks of rows, in memory or on disk. A file that cannot be read is explained in
one line.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TextIO

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.vocabulary import ENSEMBL_ID
from c2s.common.errors import (
    C2SError,
    InputError,
    UsageError,
    listing,
    missing_extra,
    nearest,
    warn,
)

Orientation = Literal["cells-by-genes", "genes-by-cells"]

TABLES = (".csv", ".tsv", ".txt")

_KNOWN = ".h5ad, .zarr, .h5 (10x), a 10x mtx folder, .loom, .csv, .tsv or .txt (these also .gz)"


def read(
    path: str | os.PathLike[str], *, backed: bool = False, orientation: Orientation | None = None
) -> ad.AnnData:
    """Open a data set.

    Parameters
    ----------
    path
        An `.h5ad` or `.zarr`, a 10x `.h5`, a folder with 10x `matrix.mtx`, `features.tsv` (or
        `genes.tsv`) and `barcodes.tsv` (each also `.gz`, all with or without a prefix; where a
        folder holds several prefixes, give the path of the one `…matrix.mtx`), a `.loom` (extra
        `loom`), or a text table `.csv`, `.tsv`, `.txt` (also `.gz`).
    backed
        Leave `X` on disk; for `.h5ad` only.
    orientation
        What the lines of a text table are: ``"cells-by-genes"`` has a line per cell,
        ``"genes-by-cells"`` a line per gene. By default it is decided from the names.

    Returns
    -------
    AnnData
        Cell names are unique: repeated ones get `-1`, `-2`, … with a `C2SWarning`. Gene names are
        left as they are. Tables and mtx files give a CSR matrix, integers as int32 where they fit
        and other numbers as float32; text columns of a table become columns of `obs` (or of `var`).

    Raises
    ------
    InputError
        The file is missing, of an unknown kind, damaged, or a table that is not understood.
    UsageError
        `backed` or `orientation` was given for a kind of file that knows no such thing.
    """
    path = Path(path)
    kind = _kind(path)
    if backed and kind != "h5ad":
        raise UsageError(f"{path}: backed=True is for .h5ad files; this is {_ARTICLE[kind]}")
    if orientation is not None and kind != "table":
        raise UsageError(f"{path}: orientation is for text tables; this is {_ARTICLE[kind]}")
    with _reading(path, _ARTICLE[kind]):
        if kind == "h5ad":
            adata = ad.read_h5ad(path, backed="r" if backed else None)
        elif kind == "table":
            adata = _read_table(path, orientation)
        else:
            adata = _READERS[kind](path)
    if remark := _make_names_unique(path, adata):
        warn(remark)  # here, so that it points at the caller
    return adata


def is_current_h5ad(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is an `.h5ad` file in the form that anndata writes since 0.7, by what is inside.

    Raises
    ------
    InputError
        There is no such file, or it is damaged or of an unknown kind.
    """
    import h5py

    path = Path(path)
    if (kind := _kind(path)) != "h5ad":
        return False
    with _reading(path, _ARTICLE[kind]), h5py.File(path, "r") as file:
        return all("encoding-type" in file[table].attrs for table in ("obs", "var"))


def read_tables(
    path: str | os.PathLike[str], layer: str | None = None
) -> tuple[ad.AnnData, list[str]]:
    """Read the tables of an `.h5ad` file, and nothing that is as large as its matrices.

    Parameters
    ----------
    path
        The file.
    layer
        "raw" for the genes of `raw`; otherwise those of the file.

    Returns
    -------
    adata : AnnData
        With `obs`, `var`, and of `uns` what this package wrote. Cell names are unique, as in `read`.
    obsm_keys : list of str
        What the file has in `obsm`.

    Raises
    ------
    InputError
        The file is missing, damaged, or of an anndata before 0.7.
    UsageError
        It is another kind of file.
    """
    import h5py

    path = Path(path)
    if (kind := _kind(path)) != "h5ad":
        raise UsageError(f"{path}: an .h5ad file is expected; this is {_ARTICLE[kind]}")
    if not is_current_h5ad(path):
        raise InputError(
            f"{path}: an anndata before 0.7 wrote it; write it anew with c2s.read(path).write_h5ad(other_path)"
        )
    with _reading(path, _ARTICLE[kind]), h5py.File(path, "r") as file:
        raw = [key for key in ("raw/var", "raw.var") if layer == "raw" and key in file]
        obs, var = (ad.io.read_elem(file[key]) for key in ("obs", raw[0] if raw else "var"))
        adata = ad.AnnData(obs=obs, var=var)
        if "uns" in file and "c2s" in file["uns"]:
            adata.uns["c2s"] = ad.io.read_elem(file["uns/c2s"])
        obsm_keys = [str(key) for key in file["obsm"]] if "obsm" in file else []
    if remark := _make_names_unique(path, adata):
        warn(remark)  # here, so that it points at the caller
    return adata, obsm_keys


def _make_names_unique(path: Path, adata: ad.AnnData) -> str | None:
    """Make the names of cells unique; return a remark that names those that were not."""
    repeated = adata.obs_names[adata.obs_names.duplicated()]
    if not len(repeated):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # anndata's remark on the same thing
        adata.obs_names_make_unique()
    return (
        f"{path}: {len(repeated):,} cells repeat the name of another"
        f" ({listing(list(repeated.unique()), 3)}); -1, -2, … was added to make names unique"
    )


def expression(adata: ad.AnnData, layer: str | None = None) -> tuple[Any, pd.DataFrame]:
    """Choose a matrix of an `AnnData`, and the table of its genes.

    Parameters
    ----------
    adata
        The data set, in memory or backed.
    layer
        None for `X`, ``"raw"`` for `adata.raw` (which has genes of its own), else a layer.

    Returns
    -------
    matrix : shape (n_cells, n_genes)
        As it is stored: sparse, dense or backed. Nothing is copied.
    var : DataFrame
        One row per column of `matrix`.

    Raises
    ------
    UsageError
        There is no such layer; those there are, are named.
    """
    if layer is None and adata.X is not None:
        return adata.X, adata.var
    if layer == "raw" and adata.raw is not None:
        return adata.raw.X, adata.raw.var
    if layer in adata.layers:
        return adata.layers[layer], adata.var
    known = [str(name) for name in adata.layers if name is not None]
    there = [*(["X"] if adata.X is not None else []), *(["raw"] if adata.raw is not None else [])]
    close = nearest(layer, known, 1) if layer is not None else []
    raise UsageError(
        f"the data set has no {'X' if layer is None else f'layer {layer!r}'}; it has"
        f" {listing([*there, *known]) or 'no matrix at all'}"
        + (f"; did you mean {close[0]!r}?" if close else "")
    )


def csr_blocks(matrix: Any, rows: int = 4096) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Walk over a matrix in blocks of rows.

    Parameters
    ----------
    matrix
        Cells × genes: scipy sparse, dense, or backed (anndata's sparse datasets, h5py or zarr
        arrays). A CSC matrix is converted once, and a CSC matrix on disk is read for that.
    rows
        Rows per block.

    Yields
    ------
    rows : slice
        Which rows the block holds, with `start` and `stop`.
    block : csr_matrix, shape (stop - start, n_genes)
        Of the matrix's own dtype (float16, which scipy lacks, becomes float32). No entry occurs
        twice; zeros that are stored stay stored. It may share memory with `matrix`: do not write
        into it.
    """
    if rows < 1:
        raise UsageError(f"rows per block is {rows}; at least 1 is expected")
    if hasattr(matrix, "to_memory") and matrix.format == "csc":
        matrix = matrix.to_memory()
    if sp.issparse(matrix):
        matrix = matrix.tocsr()
    for start in range(0, matrix.shape[0], rows):
        stop = min(start + rows, matrix.shape[0])
        if sp.issparse(matrix):
            yield slice(start, stop), _rows_of(matrix, start, stop)
            continue
        block = matrix[start:stop]
        if not sp.issparse(block):
            block = np.asarray(block)
            block = block.astype(np.float32) if block.dtype == np.float16 else block
        yield slice(start, stop), _without_repeats(sp.csr_matrix(block))


def _rows_of(matrix: sp.csr_matrix, start: int, stop: int) -> sp.csr_matrix:
    """Return rows of a CSR matrix that share its memory, unless entries must be summed."""
    indptr = matrix.indptr[start : stop + 1]
    inside = slice(int(indptr[0]), int(indptr[-1]))
    # Set one by one, because the constructor copies arrays that are small views of large ones.
    block = sp.csr_matrix((stop - start, matrix.shape[1]), dtype=matrix.dtype)
    block.data, block.indices = matrix.data[inside], matrix.indices[inside]
    block.indptr = indptr - indptr[0]
    return _without_repeats(block)


def _without_repeats(block: sp.csr_matrix) -> sp.csr_matrix:
    """Return a block in which no place is stored twice: ranking would list such a gene twice."""
    if not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    return block


# --- which kind of file -----------------------------------------------------------------------

_ARTICLE = {
    "h5ad": "an h5ad file",
    "zarr": "a zarr store",
    "10x": "a 10x h5 file",
    "mtx": "a 10x mtx folder",
    "loom": "a loom file",
    "table": "a text table",
}


def _kind(path: Path) -> str:
    """Say which reader a path is for, by its name and, for `.h5`, by what is inside."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    name = path.name.lower()
    if path.is_dir():
        if name.endswith(".zarr") or any((path / n).exists() for n in (".zgroup", "zarr.json")):
            return "zarr"
        if _matrix_files(path):
            return "mtx"
        raise InputError(
            f"{path}: this folder is neither a zarr store nor does it hold a 10x …matrix.mtx or"
            " …matrix.mtx.gz; give the path of the data file or of the folder that holds it"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    plain = name.removesuffix(".gz")
    if plain.endswith(TABLES):
        return "table"
    if plain.endswith("matrix.mtx"):
        return "mtx"
    if name.endswith((".h5ad", ".loom", ".h5", ".hdf5")):
        _require_hdf5(path)
        if name.endswith((".h5ad", ".loom")):
            return name.rsplit(".", 1)[1]
        return "h5ad" if _is_anndata(path) else "10x"
    raise InputError(f"{path}: files of this kind are not known; expected {_KNOWN}")


def _require_hdf5(path: Path) -> None:
    """Refuse a file that does not begin as HDF5, saying what it is instead where that is known."""
    import h5py

    if h5py.is_hdf5(path):
        return
    with open(path, "rb") as handle:
        start = handle.read(4)
    packed = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"BZh": "bzip2"}
    what = next((text for magic, text in packed.items() if start.startswith(magic)), None)
    raise InputError(
        f"{path}: this is {what}, not an HDF5 file; unpack it first"
        if what
        else f"{path}: this is not an HDF5 file (it begins with {start!r}), so it cannot be what"
        " its name says; copy or download it again"
    )


def _is_anndata(path: Path) -> bool:
    import h5py

    with _reading(path, "an HDF5 file"), h5py.File(path, "r") as handle:
        return "obs" in handle and "var" in handle


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names the file."""
    try:
        with warnings.catch_warnings():
            # anndata and scanpy advise to make names unique; cells are, and genes stay on purpose.
            warnings.filterwarnings("ignore", message=".*names are not unique")
            # anndata reads old files well, and says for each element that they are old.
            warnings.filterwarnings("ignore", category=ad.OldFormatWarning)
            warnings.filterwarnings("ignore", message="Moving element", category=FutureWarning)
            yield
    except (C2SError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except Exception as error:  # a damaged file raises whatever its parser stumbled over
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as {what} ({reason}); it may be cut off or damaged, so copy or"
            " download it again"
        ) from error


# --- formats that libraries read --------------------------------------------------------------


def _read_zarr(path: Path) -> ad.AnnData:
    return ad.read_zarr(path)


def _read_10x_h5(path: Path) -> ad.AnnData:
    import scanpy as sc

    return sc.read_10x_h5(path, gex_only=True)


def _read_loom(path: Path) -> ad.AnnData:
    """Read a loom file, cell and gene names from the attributes that usually hold them."""
    import h5py

    if find_spec("loompy") is None:
        raise missing_extra("loompy, which reads .loom files,", "loom")
    with h5py.File(path, "r") as handle:
        cells, genes, dtype = handle["col_attrs"], handle["row_attrs"], handle["matrix"].dtype
        cell_key = next((k for k in ("CellID", "obs_names", "cell_names") if k in cells), "CellID")
        gene_key = next((k for k in ("Gene", "var_names", "gene_names") if k in genes), "Gene")
    if dtype == np.float64:
        dtype = np.dtype(np.float32)
    adata = ad.io.read_loom(path, X_name="", obs_names=cell_key, var_names=gene_key, dtype=dtype)
    adata.obs_names, adata.var_names = adata.obs_names.astype(str), adata.var_names.astype(str)
    return adata


# --- 10x mtx ----------------------------------------------------------------------------------


def _matrix_files(folder: Path) -> list[Path]:
    found = [*folder.glob("*matrix.mtx"), *folder.glob("*matrix.mtx.gz")]
    return [*sorted(f for f in found if f.name.startswith("matrix.")), *sorted(set(found))][:8]


def _read_mtx(path: Path) -> ad.AnnData:
    """Read the three files that Cell Ranger writes, of any version, packed or not, with a prefix.

    Only features of type "Gene Expression" are kept where types are given. `var` is indexed by
    symbol, with the ids in `gene_ids`, as scanpy does.
    """
    from scipy.io import mmread

    matrix_file = path if path.is_file() else _one_matrix_file(path)
    folder = matrix_file.parent
    prefix = matrix_file.name.removesuffix(".gz").removesuffix("matrix.mtx")
    genes = _tsv(_beside(folder, prefix, "features", "genes"))
    barcodes = _tsv(_beside(folder, prefix, "barcodes"))[0]
    matrix = sp.csr_matrix(mmread(matrix_file).T)
    if matrix.shape != (len(barcodes), len(genes)):
        raise InputError(
            f"{matrix_file}: the matrix has {matrix.shape[1]:,} genes × {matrix.shape[0]:,} cells,"
            f" but {len(genes):,} genes and {len(barcodes):,} barcodes are listed beside it"
        )
    symbols = genes[1] if genes.shape[1] > 1 else genes[0]
    var = pd.DataFrame({"gene_ids": genes[0].to_numpy()}, index=pd.Index(symbols.to_numpy()))
    adata = ad.AnnData(
        _compact(matrix), obs=pd.DataFrame(index=pd.Index(barcodes.to_numpy())), var=var
    )
    if genes.shape[1] > 2:
        adata.var["feature_types"] = genes[2].to_numpy()
        expressed = genes[2].to_numpy() == "Gene Expression"
        if expressed.any() and not expressed.all():
            adata = adata[:, expressed].copy()
    return adata


def _one_matrix_file(folder: Path) -> Path:
    """Return the `matrix.mtx` of a folder; one without a prefix wins, several are refused."""
    found = _matrix_files(folder)
    prefixes = {f.name.removesuffix(".gz") for f in found}
    if "matrix.mtx" not in prefixes and len(prefixes) > 1:
        raise UsageError(
            f"{folder}: it holds several data sets ({listing(sorted({f.name for f in found}), 4)});"
            " give the path of one of these files"
        )
    return found[0]


def _beside(folder: Path, prefix: str, *stems: str) -> Path:
    """Return the file of names that lies beside a `matrix.mtx`."""
    names = [f"{prefix}{stem}.tsv{packed}" for stem in stems for packed in (".gz", "")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: none of {listing(names)} lies beside {prefix}matrix.mtx")


def _tsv(path: Path) -> pd.DataFrame:
    """Read a file of names without a header, keeping words such as NA as they are."""
    with _reading(path, "a table of names"):
        return pd.read_csv(
            path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )


def _compact(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return integers as int32 where they fit (also those written as 1.0), the rest as float32."""
    data = matrix.data
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        return matrix.astype(np.float32)
    if data.dtype.kind == "f" and (data != np.rint(data)).any():
        return matrix.astype(np.float32)
    fits = not data.size or (data.min() >= -(2**31) and data.max() < 2**31)
    return matrix.astype(np.int32 if fits else np.int64)


# --- text tables ------------------------------------------------------------------------------

#: Values that are parsed at a time: the dense block that a table needs while it is read.
_TABLE_BLOCK = 1 << 21

#: What stands above the column of names in tables that people write.
_CORNERS = frozenset(
    ("gene", "genes", "cell", "cells", "index", "barcode", "barcodes", "id", "name", "symbol", "x")
)


@dataclass
class _Table:
    """A text table on its way in: names of lines and columns, and blocks of numbers."""

    path: Path
    separator: str
    columns: list[str]
    corner: str
    names: list[str] = field(default_factory=list)
    blocks: list[sp.csr_matrix] = field(default_factory=list)
    texts: dict[int, list[Any]] = field(default_factory=dict)
    """Columns that hold text, by their number: what they hold."""

    def number_columns(self) -> list[int]:
        return [i for i in range(len(self.columns)) if i not in self.texts]


def _read_table(path: Path, orientation: Orientation | None) -> ad.AnnData:
    """Read a text table of either orientation as cells × genes, CSR."""
    with _open_text(path) as handle:
        table = _read_header(path, handle)
        for numbers, lines in _line_blocks(table, handle):
            _parse(table, numbers, lines)
    if not table.blocks:
        raise InputError(f"{path}: the table has a header and no lines of values")
    _refuse_nameless_lines(table)
    matrix = sp.vstack(table.blocks, format="csr")
    table.blocks.clear()
    matrix = _compact(matrix)
    numbered = table.number_columns()
    columns = [table.columns[i] for i in numbered]
    by_cell = (orientation or _orientation(path, table.names, columns)) == "cells-by-genes"
    notes = {table.columns[i]: values for i, values in table.texts.items()}
    of_lines = pd.DataFrame(notes, index=pd.Index(table.names, dtype=object))
    of_columns = pd.DataFrame(index=pd.Index(columns, dtype=object))
    obs, var = (of_lines, of_columns) if by_cell else (of_columns, of_lines)
    return ad.AnnData(matrix if by_cell else matrix.T.tocsr(), obs=obs, var=var)


def _open_text(path: Path) -> TextIO:
    # utf-8-sig: Excel begins its CSV files with a byte order mark.
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=None)
    return open(path, encoding="utf-8-sig", newline=None)


def _fields(line: str, separator: str) -> list[str]:
    reader = csv.reader([line.rstrip("\n")], delimiter=separator, skipinitialspace=True)
    return [text.strip() for text in next(reader, [])]


def _read_header(path: Path, handle: TextIO) -> _Table:
    """Find the separator from the first two lines, and the names of the columns.

    R's `write.table` leaves out the name of the first column, so the header may be one name short.
    """
    header, following = handle.readline(), handle.readline()
    handle.seek(0)
    handle.readline()
    tabs_first = not path.name.lower().removesuffix(".gz").endswith(".csv")
    for separator in ("\t", ",", ";", " ") if tabs_first else (",", ";", "\t", " "):
        names, values = _fields(header, separator), _fields(following, separator)
        if len(values) > 1 and len(names) == len(values):
            return _Table(path, separator, names[1:], names[0])
        if len(values) > 1 and len(names) == len(values) - 1:
            return _Table(path, separator, names, "")
    raise InputError(
        f"{path}: no table was recognised: the first two lines do not split into the same number of"
        " fields by tab, comma, semicolon or space; expected a header of names, then a name and"
        " numbers in every line"
    )


def _line_blocks(table: _Table, handle: TextIO) -> Iterator[tuple[list[int], list[str]]]:
    """Split names from values, and yield blocks of line numbers and of the rests of these lines.

    Counting fields here finds a file that was cut in the middle; pandas would fill in NaN.
    """
    width = len(table.columns)
    numbers: list[int] = []
    lines: list[str] = []
    for number, line in enumerate(handle, start=2):
        if not line.strip():
            continue
        name, rest = _split_name(line.rstrip("\n"), table.separator)
        found = (
            len(_fields(rest, table.separator)) if '"' in rest else rest.count(table.separator) + 1
        )
        if found != width:
            raise InputError(
                f"{table.path}: line {number:,} ({name[:40]}) has {found:,} values, {width:,} are"
                " expected as in the header; the file seems to be cut off or damaged"
            )
        table.names.append(name)
        numbers.append(number)
        lines.append(rest)
        if len(lines) * width >= _TABLE_BLOCK:
            yield numbers, lines
            numbers, lines = [], []
    if lines:
        yield numbers, lines


def _split_name(line: str, separator: str) -> tuple[str, str]:
    """Return the first field of a line, without quotes, and the rest as it is."""
    end = line.find('"', 1) if line.startswith('"') else -1
    if end > 0:
        return line[1:end].strip(), line[end + 1 + len(separator) :]
    name, _, rest = line.partition(separator)
    return name.strip(), rest


def _parse(table: _Table, numbers: list[int], lines: list[str]) -> None:
    """Add a block of lines to a table; the first block decides which columns hold text."""
    frame = pd.read_csv(
        io.StringIO("\n".join(lines) + "\n"),
        sep=table.separator,
        header=None,
        skip_blank_lines=False,
        skipinitialspace=True,
        low_memory=False,
    )
    worded = [i for i, dtype in enumerate(frame.dtypes) if dtype.kind not in "iuf"]
    for i in worded:
        values: pd.Series = frame[i].dropna()
        numeric = pd.to_numeric(values.astype(str), errors="coerce").notna()
        if i not in table.texts and (table.blocks or numeric.any()):
            bad = next(iter(values.index[~numeric]), values.index[0])
            raise InputError(
                f"{table.path}: line {numbers[bad]:,} ({table.names[bad - len(lines)]}), column"
                f" {table.columns[i]}, holds {str(values[bad])[:40]!r}; a number is expected"
            )
        table.texts.setdefault(i, [])
    for i, words in table.texts.items():
        words.extend(frame[i].astype(object).where(frame[i].notna(), None))
    numbered = table.number_columns()
    if not numbered:
        raise InputError(f"{table.path}: no column holds numbers; expected a table of expression")
    dense = (frame[numbered] if table.texts else frame).to_numpy()
    table.blocks.append(sp.csr_matrix(dense))


def _refuse_nameless_lines(table: _Table) -> None:
    """Refuse a table whose first column is numbers like the others: its lines have no names."""
    if not table.corner or table.corner.casefold() in _CORNERS:
        return
    first = pd.to_numeric(pd.Series(table.names), errors="coerce").to_numpy()
    counted = any(np.array_equal(first, np.arange(len(first)) + k) for k in (0, 1))
    if not np.isnan(first).any() and not counted:
        raise InputError(
            f"{table.path}: the first column, {table.corner}, holds numbers, so the lines have no"
            " names; write the table with its row names (pandas: index=True; R: row.names=TRUE)"
        )


# --- which way round a table is ---------------------------------------------------------------

#: Shapes of gene symbols that nothing else is called, human and mouse.
_SYMBOL = re.compile(
    r"""^(?:
    MT-?(?:ND[1-6]L?|CO[1-3]|CYB|CYTB|ATP[68]|RNR[12]) | M?RP[LS]P?\d+[AXYL]?\d* | RPLP[012] | RPSA
    | LINC\d{5} | LOC\d{5,} | MIR\d+\w* | SNOR[AD]\d+\w* | C(?:\d+|X|Y)ORF\d+
    | \d{7}[A-Z]\d{2}RIK | GM\d{4,5} | A[CLPF]\d{6}\.\d+ | RP\d+-\d+[A-Z]\d+\.\d+
    | HLA-\w+ | H2-\w+ | ZNF\d+ | ZFP\d+ | SLC\d+A\d+ | COL\d+A\d+ | TMEM\d+\w?
    | FAM\d+[A-Z]\d* | KRT\d+ | CD\d+[A-Z]? | CXCL\d+ | CCL\d+ | CXCR\d | CCR\d+ | IL\d+[A-Z]*
    | IFI\w+ | IFIT\d | HIST\d\w+ | NDUF\w+ | UBE2\w+ | PSM[ABCD]\d+ | EIF\d\w+ | CCDC\d+
    | KCN[A-Z]\d+ | TNFRSF\w+ | TNFSF\w+ | ATP\d[A-Z]\d+ | TRAV\S+ | IGH[VGMD]\S*
    )$""",
    re.VERBOSE | re.IGNORECASE,
)

#: Housekeeping genes and famous markers, human and mouse, in upper case.
_FAMOUS = frozenset(
    re.split(
        r"\s+",
        """ACTB ACTG1 GAPDH B2M MALAT1 NEAT1 XIST EEF1A1 EEF2 TPT1 FTL FTH1 FTL1 TMSB4X TMSB10 UBC
        UBB HPRT1 TBP PPIA PPIB PGK1 LDHA LDHB ENO1 PKM ALDOA TUBA1B TUBB HSPA8 HSP90AB1 VIM S100A4
        S100A6 S100A8 S100A9 LGALS1 LYZ LYZ1 LYZ2 NKG7 GNLY GZMB GZMA PRF1 MS4A1 PTPRC EPCAM ALB
        APOE APOA1 INS INS1 INS2 GCG SST PPY GHRL PRSS1 CPA1 HBB HBA1 HBA2 PPBP PF4 FOXP3 TP53 TRP53
        MYC KRAS EGFR GATA3 SOX2 NANOG PECAM1 VWF MKI67 TOP2A PCNA STMN1 JUN FOS JUNB KLF2 LEF1 TCF7
        SELL STAT1 ISG15 MX1 SERPINA1""",
    )
)

#: Droplet barcodes, and the words that names of cells, spots and samples are made with.
_CELL = re.compile(r"(?:^|[^A-Z])[ACGT]{10,}(?:$|[^A-Z])|cell|barcode|spot|sample|donor", re.I)


def _is_gene(name: str) -> bool:
    return bool(ENSEMBL_ID.match(name) or _SYMBOL.match(name) or name.upper() in _FAMOUS)


def _orientation(path: Path, lines: Sequence[str], columns: Sequence[str]) -> Orientation:
    """Decide which axis of a table is genes: the one whose names are known shapes of gene names.

    Where neither axis has such names, or both have about as many, names as cells have decide.
    """
    genes = [sum(map(_is_gene, axis)) / len(axis) for axis in (lines, columns)]
    if genes[1] > 4 * genes[0]:
        return "cells-by-genes"
    if genes[0] > 4 * genes[1]:
        return "genes-by-cells"
    cells = [sum(bool(_CELL.search(n)) for n in axis) / len(axis) for axis in (lines, columns)]
    if cells[0] > 0.8 and cells[1] < 0.2:
        return "cells-by-genes"
    if cells[1] > 0.8 and cells[0] < 0.2:
        return "genes-by-cells"
    raise InputError(
        f"{path}: neither the lines ({listing(lines, 2)}) nor the columns ({listing(columns, 2)})"
        " are clearly genes; say which with orientation='cells-by-genes' (a line per cell) or"
        " 'genes-by-cells'"
    )


_READERS = {"zarr": _read_zarr, "10x": _read_10x_h5, "mtx": _read_mtx, "loom": _read_loom}
