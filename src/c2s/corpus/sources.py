"""Sources of cells: a file, opened once, from which any range of rows is read in bounded memory.

`open_source` opens an `.h5ad`, a `.zarr`, a TileDB-SOMA experiment or the packaged data; `digest` is the
identity of its content and `expand` finds files by pattern. Rows come as CSR blocks straight from the
stored arrays, without an `AnnData`. A matrix that is stored by column is turned round once, on disk.

How the bytes are read was measured: HDF5 hands out uncompressed chunks as fast as memory is copied, so
those go through h5py. Its gzip filter takes 2 to 3 times as long as `isal` on the same chunks, so gzip
chunks are taken raw and unpacked with `isal` where that is installed. Files are not memory-mapped: mapped
pages count as memory of the process, and a file that is cut off while mapped ends the process.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numba import njit

from c2s.cells.preprocess import is_mitochondrial
from c2s.cells.vocabulary import SYMBOL_COLUMNS, GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError, listing, nearest
from c2s.common.files import atomic_directory, sha256

#: The word that stands for the packaged data where a path is expected.
PACKAGED = "pancreas"

Kind = Literal["auto", "soma"]

# Stored values, or labels, that are held at a time where a whole array is walked through.
_BLOCK = 1 << 20
# Bytes of a dense matrix that are read at a time.
_DENSE_BYTES = 1 << 25
# A chunk up to this size is kept for the next read, which begins in it.
_KEPT_BYTES = 1 << 26
# How files and people write that there is no label.
_MISSING = frozenset(("", "nan", "NaN", "<NA>"))


class CellSource(ABC):
    """Cells of one file: rows of a matrix, names of genes and columns of labels.

    Attributes
    ----------
    path
        As the user gave it.
    n_cells
        Number of rows.
    """

    path: str
    n_cells: int

    @property
    @abstractmethod
    def vocabulary(self) -> GeneVocabulary:
        """The genes, one per column of the matrix."""

    @cached_property
    def mitochondrial(self) -> np.ndarray:
        """Which genes are mitochondrial, by their symbols. bool, shape (n_genes,)."""
        return is_mitochondrial(pd.DataFrame(index=pd.Index(list(self.vocabulary.symbols))))

    @abstractmethod
    def stored(self) -> np.ndarray | None:
        """Return how many values are stored before each row, or None where the file does not say.

        Returns
        -------
        int64 array, shape (n_cells + 1,)
            The last is the number of all stored values; None for dense matrices and for SOMA.

        Raises
        ------
        InputError
            The file is damaged.
        """

    @abstractmethod
    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows `start` to `stop`, the last not included.

        Returns
        -------
        csr_matrix, shape (stop - start, n_genes)
            Of the file's own type of numbers (float16, which scipy lacks, becomes float32), with
            int32 columns. No place is stored twice; zeros that are stored stay stored. Memory is a
            small multiple of these rows.

        Raises
        ------
        InputError
            The file is damaged, or does not hold real numbers.
        UsageError
            There are no such rows.
        """

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`, in the file's order."""

    @abstractmethod
    def column(self, name: str) -> pa.DictionaryArray:
        """Read a column of `obs` as text.

        Returns
        -------
        dictionary<int32, string> array, shape (n_cells,)
            Numbers and booleans as Python writes them (`1`, `0.5`, `True`). None, NaN, a categorical's
            code −1, empty text and the text `nan` are null.

        Raises
        ------
        UsageError
            There is no such column; the nearest is named.
        InputError
            The column is damaged, or of a kind that holds no labels.
        """

    @abstractmethod
    def names(self, start: int, stop: int) -> pa.Array:
        """Return the names of the cells of some rows, which may repeat. large_string, shape (n,)."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_rows(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_cells:
            raise UsageError(
                f"{self.path}: rows {start:,} to {stop:,} were asked for, of {self.n_cells:,} cells"
            )

    def _check_column(self, name: str) -> None:
        known = self.columns()
        if name not in known:
            close = nearest(name, known, 1)
            raise UsageError(
                f"{self.path}: obs has no column {name!r}; "
                + (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"it has: {listing(known) or 'none'}"
                )
            )


def open_source(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    kind: Kind = "auto",
    scratch: Path | None = None,
    content: str | None = None,
    measurement: str = "RNA",
) -> CellSource:
    """Open a source of cells.

    Parameters
    ----------
    path
        An `.h5ad` file, a `.zarr` folder (format 2 or 3), the folder of a TileDB-SOMA experiment
        (extra `soma`), or ``"pancreas"`` for the packaged data.
    layer
        None for `X`, ``"raw"`` for `raw`, else a layer. In an experiment the name of a matrix in
        `X`; None is ``"raw"``.
    gene_names
        Where symbols of gene ids are found, as in `GeneVocabulary.from_var`.
    kind
        ``"auto"`` decides by what the path is; ``"soma"`` takes it for an experiment.
    scratch
        A folder for the row-wise copy of a matrix that is stored by column. It is made once and
        reused by every process that opens the same content with the same folder; it may be removed
        when no process reads from it.
    content
        `digest(path)`, where it is known; otherwise it is worked out if a row-wise copy is needed.
    measurement
        The measurement of an experiment.

    Raises
    ------
    InputError
        The file is missing, damaged, of an unknown kind, or stored by column and there is no `scratch`.
    UsageError
        There is no such layer or measurement, or the extra is not installed.
    C2SError
        The row-wise copy cannot be written.
    """
    name = os.fspath(path)
    found = "soma" if kind == "soma" else _kind(name)
    if found == PACKAGED:
        from c2s.datasets import pancreas

        return AnnDataSource(name, pancreas(), layer=layer, gene_names=gene_names)
    if found == "soma":
        from c2s.corpus.soma import SomaSource

        return SomaSource(
            name, layer=layer or "raw", gene_names=gene_names, measurement=measurement
        )
    source = _StoredSource(name, found, layer, gene_names)
    try:
        source.prepare(scratch, content)
    except BaseException:
        source.close()
        raise
    return source


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a source's content, as hexadecimal digits.

    Of a file, that of its bytes. Of a folder (zarr, SOMA), that of one line per file in the order of
    their names, with the name relative to the folder and the SHA-256 of the file.

    Raises
    ------
    InputError
        There is no such file or folder, or it cannot be read.
    """
    if os.fspath(path) == PACKAGED:
        packed = files("c2s.datasets").joinpath("data/pancreas.npz.xz").read_bytes()
        return hashlib.sha256(packed).hexdigest()
    root = Path(path)
    with reading(path):
        if not root.is_dir():
            return sha256(root)
        lines = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        total = hashlib.sha256()
        for line in lines:
            total.update(f"{line}\0{sha256(root / line)}\n".encode())
        return total.hexdigest()


def expand(patterns: Sequence[str], folder: Path) -> list[str]:
    """Return the paths that patterns match.

    Parameters
    ----------
    patterns
        Paths, or patterns with ``*``, ``?``, ``[…]`` and ``**`` (any depth), relative to `folder` or
        absolute; ``"pancreas"`` stands for the packaged data.
    folder
        The folder of the recipe.

    Returns
    -------
    list of str
        Sorted; a file that several patterns match, or that has several names, is there once.

    Raises
    ------
    InputError
        A pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        place = os.path.join(folder, pattern)
        if pattern == PACKAGED:
            matches = [PACKAGED]
        elif os.path.lexists(place):  # a name may hold the characters of a pattern
            matches = [os.path.normpath(place)]
        else:
            matches = [os.path.normpath(m) for m in glob.glob(place, recursive=True)]
        if not matches:
            raise InputError(
                f"{pattern}: nothing in {folder} matches it; give the path of a file, or a pattern such"
                " as 'data/*.h5ad', relative to the recipe"
            )
        found.update(matches)
    first: dict[str, str] = {}
    for match in sorted(found):
        first.setdefault(match if match == PACKAGED else os.path.realpath(match), match)
    return sorted(first.values())


def labels(codes: np.ndarray, levels: Iterable[object]) -> pa.DictionaryArray:
    """Make a column of text of codes and of what they stand for.

    Parameters
    ----------
    codes : integer array, shape (n,)
        Positions among `levels`; negative is missing.
    levels
        Text, bytes, numbers, booleans; None, NaN, empty text and `nan` are missing.

    Returns
    -------
    dictionary<int32, string> array, shape (n,)
        Levels with equal text are one.
    """
    known: dict[str, int] = {}
    new = [
        -1 if text is None else known.setdefault(text, len(known)) for text in map(_text, levels)
    ]
    translated = np.asarray([*new, -1], np.int32)[np.where(codes < 0, len(new), codes)]
    return pa.DictionaryArray.from_arrays(
        pa.array(translated, mask=translated < 0), pa.array(list(known), pa.string())
    )


def csr_block(
    path: str, data: np.ndarray, indices: np.ndarray, lengths: np.ndarray, n_genes: int
) -> sp.csr_matrix:
    """Make a block of rows of arrays from a file, which may hold anything.

    Parameters
    ----------
    path
        The file, for messages.
    data, indices : arrays, shape (n_stored,)
        Values and their columns.
    lengths : integer array, shape (n_rows,)
        Stored values of each row.
    n_genes
        Columns of the matrix.

    Raises
    ------
    InputError
        A column is none of the matrix, so the file is damaged: nothing behind this checks bounds.
    """
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    in_order = _in_order(indices, indptr, n_genes)
    if not in_order and len(indices) and (indices.min() < 0 or indices.max() >= n_genes):
        wrong = indices[(indices < 0) | (indices >= n_genes)][0]
        raise InputError(
            f"{path}: a value stands in column {wrong:,} of a matrix of {n_genes:,} genes; the file is"
            " damaged, so copy or download it again"
        )
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    # Set one by one, because the constructor copies arrays that are small views of large ones.
    block = sp.csr_matrix((len(lengths), n_genes), dtype=_scipy_type(data.dtype))
    block.data = data.astype(block.dtype, copy=False)
    block.indices = indices.astype(np.int32, copy=False)
    block.indptr = indptr
    if not in_order:
        block.sum_duplicates()
    return block


# --- in memory --------------------------------------------------------------------------------


class AnnDataSource(CellSource):
    """Cells of an `AnnData` in memory.

    Parameters
    ----------
    path
        What it is called in messages.
    adata
        The cells; not changed.
    layer, gene_names
        As in `open_source`.
    """

    def __init__(
        self,
        path: str,
        adata: Any,
        *,
        layer: str | None = None,
        gene_names: Mapping[str, str] | str | None = None,
    ) -> None:
        from c2s.cells.readers import expression

        matrix, self._var = expression(adata, layer)
        self.path, self.n_cells = path, int(adata.n_obs)
        self._obs, self._gene_names = adata.obs, gene_names
        self._dense = not sp.issparse(matrix)
        self._matrix = matrix if self._dense else matrix.tocsr()

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes, one per column of the matrix."""
        return GeneVocabulary.from_var(self._var, self._gene_names)

    def stored(self) -> np.ndarray | None:
        """Return how many values are stored before each row; None for a dense matrix."""
        return None if self._dense else self._matrix.indptr.astype(np.int64)

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return rows as CSR; they share memory with the `AnnData`, so do not write into them."""
        self._check_rows(start, stop)
        n_genes = self._matrix.shape[1]
        if self._dense:
            return _csr_of_dense(self.path, np.asarray(self._matrix[start:stop]))
        indptr = self._matrix.indptr[start : stop + 1]
        inside = slice(int(indptr[0]), int(indptr[-1]))
        data, indices = self._matrix.data[inside], self._matrix.indices[inside]
        # Summing what is stored twice would write into the shared arrays.
        if not _in_order(indices, (indptr - indptr[0]).astype(np.int64), n_genes):
            data, indices = data.copy(), indices.copy()
        return csr_block(self.path, data, indices, np.diff(indptr), n_genes)

    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return [str(c) for c in self._obs.columns]

    def column(self, name: str) -> pa.DictionaryArray:
        """Return a column of `obs` as text."""
        self._check_column(name)
        codes, levels = pd.factorize(self._obs[name])
        return labels(codes, np.asarray(levels))  # an Index would give Python's numbers

    def names(self, start: int, stop: int) -> pa.Array:
        """Return the names of the cells of some rows."""
        self._check_rows(start, stop)
        return pa.array([str(n) for n in self._obs.index[start:stop]], pa.large_string())

    def close(self) -> None:
        """Do nothing: no file is open."""


# --- h5ad and zarr ----------------------------------------------------------------------------


class _StoredSource(CellSource):
    """Cells of an h5ad file or a zarr folder: h5py and zarr groups are alike in what is used here."""

    def __init__(
        self,
        path: str,
        kind: str,
        layer: str | None,
        gene_names: Mapping[str, str] | str | None,
    ) -> None:
        self.path, self._layer, self._gene_names = path, layer, gene_names
        with reading(path):
            self._root = _open_zarr(path) if kind == "zarr" else _open_hdf5(path)
        self._rows: _Compressed | _Dense

    def prepare(self, scratch: Path | None, content: str | None) -> None:
        """Find the tables and the matrix, turned round if it is stored by column."""
        with reading(self.path):
            for table in ("obs", "var"):
                if table not in self._root:
                    raise InputError(
                        f"{self.path}: it holds no {table}, so it is no AnnData file; it holds:"
                        f" {listing(sorted(self._root.keys())) or 'nothing'}"
                    )
            node, var = _find_matrix(self.path, self._root, self._layer)
            self._obs, self._var = (_Table(self.path, self._root, table) for table in ("obs", var))
            matrix = _matrix(self.path, node)
            self.n_cells = len(self._obs)
        if matrix.shape != (self.n_cells, len(self._var)):
            raise InputError(
                f"{self.path}: the matrix has shape {matrix.shape[0]:,} × {matrix.shape[1]:,}, but there are"
                f" {self.n_cells:,} cells in obs and {len(self._var):,} genes in {var}; the file is damaged"
            )
        if isinstance(matrix, _Compressed) and not matrix.by_row:
            matrix = _turned(matrix, self._layer, scratch, content)
        self._rows = matrix

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes, one per column of the matrix."""
        with reading(self.path):
            table = self._var
            wanted = [c for c in table.columns() if c in SYMBOL_COLUMNS or c == self._gene_names]
            if isinstance(self._gene_names, str) and not wanted.count(self._gene_names):
                raise InputError(
                    f"{self.path}: var has no column {self._gene_names!r}; it has:"
                    f" {listing(table.columns()) or 'none'}"
                )
            names = table.names(0, len(table)).to_pylist()
            symbols = {c: table.column(c).to_pylist() for c in wanted}
            var = pd.DataFrame(symbols, index=pd.Index(names, dtype=object), dtype=object)
            try:
                return GeneVocabulary.from_var(var, self._gene_names)
            except InputError as error:
                raise InputError(f"{self.path}: {error}") from error

    def stored(self) -> np.ndarray | None:
        """Return how many values are stored before each row; None for a dense matrix."""
        return None if isinstance(self._rows, _Dense) else self._rows.indptr

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows as CSR."""
        self._check_rows(start, stop)
        with reading(self.path):
            return self._rows.read(start, stop)

    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        with reading(self.path):
            return self._obs.columns()

    def column(self, name: str) -> pa.DictionaryArray:
        """Read a column of `obs` as text."""
        self._check_column(name)
        with reading(self.path):
            column = self._obs.column(name)
        if len(column) != self.n_cells:
            raise InputError(
                f"{self.path}: obs has {len(column):,} values in column {name!r} for {self.n_cells:,} cells;"
                " the file is damaged"
            )
        return column

    def names(self, start: int, stop: int) -> pa.Array:
        """Read the names of the cells of some rows."""
        self._check_rows(start, stop)
        with reading(self.path):
            return self._obs.names(start, stop)

    def close(self) -> None:
        """Close the file."""
        (self._root.store if hasattr(self._root, "store") else self._root).close()


def _kind(name: str) -> str:
    """Say what kind of source a path is."""
    if name == PACKAGED:
        return PACKAGED
    path = Path(name)
    if not path.exists():
        raise InputError(f"{name}: there is no such file or folder")
    if path.is_dir():
        if any((path / marker).exists() for marker in ("zarr.json", ".zgroup")):
            return "zarr"
        if any((path / marker).exists() for marker in ("__group", "__tiledb_group.tdb")):
            return "soma"
    elif path.suffix.lower() in (".h5ad", ".h5", ".hdf5"):
        return "h5ad"
    raise InputError(
        f"{name}: it is no source of cells; expected an .h5ad file, a .zarr folder, the folder of a"
        " TileDB-SOMA experiment, or 'pancreas'; other files can be rewritten with"
        " c2s.cells.readers.read(path).write_h5ad(...)"
    )


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong while a source is read into one line that names it.

    Raises
    ------
    InputError
        Anything but memory ran out, or a `C2SError`, which is left as it is.
    """
    try:
        yield
    except (C2SError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file, or a part of it is missing") from error
    except Exception as error:  # a damaged file raises whatever its parser stumbled over
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read ({reason}); it may be cut off or damaged, so copy or download it again"
        ) from error


def _open_hdf5(path: str) -> Any:
    if not h5py.is_hdf5(path):
        with open(path, "rb") as handle:
            start = handle.read(4)
        raise InputError(
            f"{path}: this is not an HDF5 file ("
            + (f"it begins with {start!r}" if start else "it is empty")
            + "), so it cannot be an h5ad; copy or download it again"
        )
    return h5py.File(path, "r")


def _open_zarr(path: str) -> Any:
    import zarr

    return zarr.open_group(path, mode="r")


def _find_matrix(path: str, root: Any, layer: str | None) -> tuple[Any, str]:
    """Return the node of a matrix, and where the table of its genes is."""
    # Files of anndata before 0.7 have `raw.X` beside `X`.
    raws = {key: var for key, var in (("raw/X", "raw/var"), ("raw.X", "raw.var")) if key in root}
    layers = [str(key) for key in root["layers"]] if "layers" in root else []
    has_x = "X" in root and root["X"].attrs.get("encoding-type") != "null"
    if layer is None and has_x:
        return root["X"], "var"
    if layer == "raw" and raws:
        key, var = next(iter(raws.items()))
        return root[key], var
    if layer in layers:
        return root["layers"][layer], "var"
    there = [*(["X"] if has_x else []), *(["raw"] if raws else []), *layers]
    raise UsageError(
        f"{path}: the file has no {'X' if layer is None else f'layer {layer!r}'}; it has"
        f" {listing(there) or 'no matrix at all'}"
    )


def _matrix(path: str, node: Any) -> _Compressed | _Dense:
    if not _is_group(node):
        return _Dense(path, node)
    attrs = node.attrs
    kind = _word(attrs.get("encoding-type", attrs.get("h5sparse_format", "none")))
    shape = attrs.get("shape", attrs.get("h5sparse_shape"))
    if kind.removesuffix("_matrix") not in ("csr", "csc") or shape is None:
        raise InputError(
            f"{path}: the matrix is stored as {kind!r}; a dense, csr or csc matrix is expected"
        )
    return _Compressed(
        path,
        (int(shape[0]), int(shape[1])),
        _run(path, node["data"]),
        _run(path, node["indices"]),
        np.asarray(node["indptr"][:]).astype(np.int64),
        by_row=kind.startswith("csr"),
    )


class _Dense:
    """A dense matrix on disk."""

    def __init__(self, path: str, array: Any) -> None:
        self.path, self.array = path, array
        _scipy_type(array.dtype, path)
        if len(array.shape) != 2:
            raise InputError(
                f"{path}: the matrix has {len(array.shape)} dimensions; expected cells × genes"
            )
        self.shape = (int(array.shape[0]), int(array.shape[1]))

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        fit = max(1, _DENSE_BYTES // max(1, self.shape[1] * self.array.dtype.itemsize))
        chunks = getattr(self.array, "chunks", None)
        # Pieces end where chunks end, or a chunk would be unpacked for two pieces.
        step = fit - fit % chunks[0] if chunks and chunks[0] <= fit else fit
        bounds = [start, *range(start - start % step + step, stop, step), stop]
        pieces = [
            _csr_of_dense(self.path, np.asarray(self.array[low:high]))
            for low, high in pairwise(bounds)
        ]
        return pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr")


class _Compressed:
    """A sparse matrix on disk, compressed by row (CSR) or by column (CSC)."""

    def __init__(
        self,
        path: str,
        shape: tuple[int, int],
        data: _Run,
        indices: _Run,
        indptr: np.ndarray,
        *,
        by_row: bool,
    ) -> None:
        self.path, self.shape, self.by_row = path, shape, by_row
        self.data, self.indices, self.indptr = data, indices, indptr
        _scipy_type(data.dtype, path)
        n_major = shape[0] if by_row else shape[1]
        # scipy lets the arrays be longer than what is used of them.
        if (
            indptr.shape != (n_major + 1,)
            or indptr[0] != 0
            or (np.diff(indptr) < 0).any()
            or indptr[-1] > min(len(data), len(indices))
        ):
            raise InputError(
                f"{path}: the index of the matrix (indptr) does not fit its {len(data):,} values; the file"
                " is damaged, so copy or download it again"
            )

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        return csr_block(
            self.path,
            self.data.read(low, high),
            self.indices.read(low, high),
            np.diff(self.indptr[start : stop + 1]),
            self.shape[1],
        )


# --- one-dimensional arrays on disk -----------------------------------------------------------


class _Run:
    """A one-dimensional array on disk."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> np.ndarray:
        found = np.asarray(self.array[start:stop])
        return found.astype(found.dtype.newbyteorder("="), copy=False)


class _ChunkedRun(_Run):
    """An array that is unpacked by whole chunks; the last is kept, because the next read begins in it."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self.chunk = int(array.chunks[0])
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0, self.dtype))

    def unpacked(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Yield the values of chunks `first` to `last`, one array for any number of them."""
        yield _Run.read(self, first * self.chunk, (last + 1) * self.chunk)

    def read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, self.dtype.newbyteorder("="))
        if start == stop:
            return out
        at, last = start // self.chunk, (stop - 1) // self.chunk
        kept, values = self._kept
        if kept == at:
            _overlay(out, start, values, at * self.chunk)
            at += 1
        if at > last:
            return out
        position = at * self.chunk
        for values in self.unpacked(at, last):
            _overlay(out, start, values, position)
            position += len(values)
        begin = (last * self.chunk) - (position - len(values))
        if (len(values) - begin) * self.dtype.itemsize <= _KEPT_BYTES:
            self._kept = (last, values[begin:].copy())
        return out


def _overlay(out: np.ndarray, start: int, values: np.ndarray, position: int) -> None:
    """Copy into `out`, whose first place is `start`, what of `values`, at `position`, lies in it."""
    low, high = max(start, position), min(start + len(out), position + len(values))
    if low < high:
        out[low - start : high - start] = values[low - position : high - position]


class _GzipRun(_ChunkedRun):
    """An HDF5 array packed with gzip, with or without shuffling, unpacked by `isal`."""

    def __init__(self, array: Any, isal_zlib: Any) -> None:
        super().__init__(array)
        self._isal, self._shuffled = isal_zlib, bool(array.shuffle)

    def unpacked(self, first: int, last: int) -> Iterator[np.ndarray]:
        for i in range(first, last + 1):
            yield self._chunk(i)[: len(self) - i * self.chunk]

    def _chunk(self, i: int) -> np.ndarray:
        size = self.chunk * self.dtype.itemsize
        try:
            skipped, packed = self.array.id.read_direct_chunk((i * self.chunk,))
            raw = b"" if skipped else self._isal.decompress(packed, bufsize=size)
        except (OSError, RuntimeError, ValueError, self._isal.error):
            raw = b""
        # What is unusual or damaged is HDF5's to read or to refuse.
        if len(raw) != size:
            return _Run.read(self, i * self.chunk, (i + 1) * self.chunk)
        if not self._shuffled:
            return np.frombuffer(raw, self.dtype)
        out = np.empty(self.chunk, np.dtype(f"u{self.dtype.itemsize}"))
        _unshuffle(np.frombuffer(raw, np.uint8), out)
        return out.view(self.dtype)


class _FileRun(_Run):
    """A plain file of numbers."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = path, dtype

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        offset = start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count=stop - start, offset=offset)


def _run(path: str, array: Any) -> _Run:
    """Choose how an array of a sparse matrix is read."""
    if not isinstance(array, h5py.Dataset):
        # zarr reads a chunk that is not there as zeros, which would be genes and counts like others.
        if array.nchunks_initialized < array.nchunks:
            raise InputError(
                f"{path}: {array.nchunks - array.nchunks_initialized:,} of the {array.nchunks:,} chunks of"
                f" {array.path} are missing; copy or download it again"
            )
        return _ChunkedRun(array)
    if not (array.dtype.isnative and array.dtype.kind in "iuf" and _gzip_only(array)):
        return _Run(array)
    try:
        from isal import isal_zlib
    except ImportError:
        return _Run(array)
    return _GzipRun(array, isal_zlib)


def _gzip_only(array: Any) -> bool:
    """Whether all chunks of an HDF5 array are there and packed by gzip, with or without shuffling."""
    if array.compression != "gzip" or not len(array):
        return False
    properties = array.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    whole = array.id.get_num_chunks() == -(-len(array) // array.chunks[0])
    return whole and filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


# --- tables of cells and genes ----------------------------------------------------------------


class _Table:
    """`obs` or `var`: a group with an array per column, or one array of records before anndata 0.7."""

    def __init__(self, path: str, root: Any, key: str) -> None:
        self.path, self.root, self.node = path, root, root[key]
        self.records = not _is_group(self.node)
        attrs = self.node.attrs
        self.index = (
            self.node.dtype.names[0] if self.records else _word(attrs.get("_index", "_index"))
        )

    def __len__(self) -> int:
        if self.records:
            return int(self.node.shape[0])
        return _length(self.node[self.index])

    def columns(self) -> list[str]:
        if self.records:
            return [str(c) for c in self.node.dtype.names[1:]]
        ordered = self.node.attrs.get("column-order")
        known = list(self.node.keys()) if ordered is None else [_word(c) for c in ordered]
        return [c for c in known if c not in (self.index, "__categories")]

    def names(self, start: int, stop: int) -> pa.Array:
        node = self.node if self.records else self.node[self.index]
        values = node[start:stop][self.index] if self.records else _slice(node, start, stop)
        return pa.array([_word(v) for v in values], pa.large_string())

    def column(self, name: str) -> pa.DictionaryArray:
        if self.records:
            codes, levels = _factorized(lambda a, b: self.node[a:b][name], len(self))
            return labels(codes, self._old_categories(name, levels))
        node = self.node[name]
        if _is_group(node) and not {"codes", "values"} & set(node.keys()):
            kind = _word(node.attrs.get("encoding-type", "a group"))
            raise InputError(
                f"{self.path}: the column {name!r} is stored as {kind!r}; labels are expected"
            )
        if _is_group(node) and "codes" in node:
            return _coded(np.asarray(node["codes"][:]), _all(node["categories"]))
        if "categories" in node.attrs:  # anndata 0.7: a reference, or a name, in this group
            return _coded(np.asarray(node[:]), _all(self.node[node.attrs["categories"]]))
        return labels(*_factorized(lambda a, b: _slice(node, a, b), _length(node)))

    def _old_categories(self, name: str, levels: list[Any]) -> list[Any]:
        """Return what the numbers in a column of records stand for, or the numbers."""
        given = f"uns/{name}_categories"
        if given not in self.root or not all(isinstance(v, np.integer) for v in levels):
            return levels
        words = [*_all(self.root[given])]
        # The categories may be those of a column of the other table that has the same name.
        if max(levels, default=0) >= len(words):
            return levels
        return [None if v < 0 else words[v] for v in levels]


def _coded(codes: np.ndarray, levels: np.ndarray) -> pa.DictionaryArray:
    codes = codes.astype(np.int64)
    if len(codes) and codes.max() >= len(levels):
        raise ValueError(f"a code of {codes.max()} stands for one of {len(levels)} categories")
    return labels(codes, levels)


def _factorized(read: Callable[[int, int], np.ndarray], n: int) -> tuple[np.ndarray, list[object]]:
    """Number the different values of a column that is read in blocks; −1 is missing."""
    codes = np.empty(n, np.int64)
    known: dict[object, int] = {}
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        found, levels = pd.factorize(read(start, stop))
        numbers = [known.setdefault(level, len(known)) for level in levels]
        codes[start:stop] = np.asarray([*numbers, -1], np.int64)[found]
    return codes, list(known)


def _slice(node: Any, start: int, stop: int) -> np.ndarray:
    """Read part of an array of any kind that anndata writes: text as objects, missing as None."""
    if _is_group(node):
        if "codes" in node:
            levels = np.asarray([*_all(node["categories"]), None], dtype=object)
            return levels[np.asarray(node["codes"][start:stop]).astype(np.int64)]
        values = _slice(node["values"], start, stop).astype(object)
        values[np.asarray(node["mask"][start:stop]).astype(bool)] = None
        return values
    if isinstance(node, h5py.Dataset) and h5py.check_string_dtype(node.dtype) is not None:
        return np.asarray(node.asstr()[start:stop], dtype=object)
    values = np.asarray(node[start:stop])
    # numpy's own types of text, which zarr gives, are unknown to pandas.
    return values if values.dtype.kind in "biuf" else values.astype(object)


def _all(node: Any) -> np.ndarray:
    if not _is_group(node) and node.shape == ():  # a single category of an old file
        return np.asarray([node[()]], dtype=object)
    return _slice(node, 0, _length(node))


def _length(node: Any) -> int:
    if _is_group(node):
        return int(node["codes" if "codes" in node else "values"].shape[0])
    return int(node.shape[0])


def _is_group(node: Any) -> bool:
    return hasattr(node, "keys")


def _word(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _text(level: object) -> str | None:
    if level is None or level is pd.NA or level != level:  # NaN is unequal to itself
        return None
    text = _word(level)
    return None if text.strip() in _MISSING else text


# --- numbers ----------------------------------------------------------------------------------


def _scipy_type(dtype: np.dtype, path: str = "") -> np.dtype:
    """Return the type that scipy holds values of a type in.

    Raises
    ------
    InputError
        These are no real numbers.
    """
    if dtype.kind not in "buif":
        raise InputError(
            f"{path}: the matrix holds values of type {dtype}; real numbers are expected"
        )
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _csr_of_dense(path: str, block: np.ndarray) -> sp.csr_matrix:
    matrix = sp.csr_matrix(block.astype(_scipy_type(block.dtype, path), copy=False))
    matrix.indices = matrix.indices.astype(np.int32, copy=False)
    return matrix


@njit(cache=True)
def _in_order(indices: np.ndarray, indptr: np.ndarray, n_columns: int) -> bool:
    """Whether in every row the columns rise, so none stands there twice, and are those of the matrix."""
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        if start == stop:
            continue
        falling = 0  # counted, not left at the first: the compiler vectorises that
        for j in range(start + 1, stop):
            falling += indices[j] <= indices[j - 1]
        if falling or indices[start] < 0 or indices[stop - 1] >= n_columns:
            return False
    return True


@njit(cache=True)
def _unshuffle(raw: np.ndarray, out: np.ndarray) -> None:
    """Undo HDF5's shuffle: `raw` has the first bytes of all numbers, then the second, and so on."""
    n = len(out)
    for i in range(n):
        out[i] = raw[i]
    for byte in range(1, len(raw) // n):
        part = raw[byte * n : (byte + 1) * n]
        for i in range(n):
            out[i] |= out.dtype.type(part[i]) << out.dtype.type(8 * byte)


@njit(cache=True)
def _counting_order(keys: np.ndarray, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable order of small whole numbers, and where each of them begins in it."""
    starts = np.zeros(n_keys + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    for key in range(n_keys):
        starts[key + 1] += starts[key]
    place = starts[:-1].copy()
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        order[place[keys[i]]] = i
        place[keys[i]] += 1
    return order, starts


# --- from columns to rows ---------------------------------------------------------------------


def _turned(
    matrix: _Compressed, layer: str | None, scratch: Path | None, content: str | None
) -> _Compressed:
    """Return a CSC matrix as CSR in plain files below `scratch`, made now or by another process.

    Raises
    ------
    InputError
        There is no scratch folder.
    C2SError
        It cannot be written, or the disk is full.
    """
    if scratch is None:
        raise InputError(
            f"{matrix.path}: the matrix is stored by column (CSC), and rows are read here; give a scratch"
            " folder for a copy by row, or write the file again with adata.X = adata.X.tocsr()"
        )
    key = hashlib.sha256(f"{content or digest(matrix.path)}\0{layer}".encode()).hexdigest()[:24]
    folder = Path(scratch) / f"rows-{key}"
    with _locked(folder):
        if not (folder / "matrix").is_dir():
            for leftover in folder.glob(".c2s-*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with atomic_directory(folder / "matrix") as made:
                _write_by_row(matrix, made)
    dtype = matrix.data.dtype.newbyteorder("=")
    with reading(folder):
        return _Compressed(
            matrix.path,
            matrix.shape,
            _FileRun(folder / "matrix" / "data.bin", dtype),
            _FileRun(folder / "matrix" / "indices.bin", np.dtype(np.int32)),
            np.load(folder / "matrix" / "indptr.npy"),
            by_row=True,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other processes out of it; a process that ends lets go."""
    import fcntl

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / "lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise C2SError(
                f"{folder}: cannot be written ({error.strerror}); give another scratch folder"
            ) from error
        yield


def _write_by_row(matrix: _Compressed, folder: Path) -> None:
    """Write a CSC matrix as CSR, in memory of a few blocks, whatever its size.

    Rows are gathered in buckets of about a block of values each. A first pass counts the values of
    rows, so a bucket's place in the result is known; a second puts every value into its bucket's
    place, in the order of columns; then each bucket is sorted by row where it lies.
    """
    indptr = np.concatenate([[0], np.cumsum(_values_per_row(matrix))])
    bucket_of_row = (indptr[:-1] // _BLOCK).astype(np.int64)
    n_buckets = int(bucket_of_row[-1]) + 1 if len(bucket_of_row) else 0
    first_row = np.searchsorted(bucket_of_row, np.arange(n_buckets + 1))
    np.save(folder / "indptr.npy", indptr)
    names = ("row.bin", "indices.bin", "data.bin")
    for name in names:
        (folder / name).touch()
    cursor = indptr[first_row].copy()
    with ExitStack() as stack:
        handles = [stack.enter_context(open(folder / name, "r+b")) for name in names]
        for arrays in _entries_by_column(matrix):
            order, starts = _counting_order(bucket_of_row[arrays[0]], n_buckets)
            filled = np.flatnonzero(np.diff(starts))
            for handle, array in zip(handles, arrays, strict=True):
                ordered = array[order]
                for bucket in filled:
                    handle.seek(int(cursor[bucket]) * array.itemsize)
                    handle.write(ordered[starts[bucket] : starts[bucket + 1]].data)
            cursor[:-1] += np.diff(starts)
    runs = [
        _FileRun(folder / name, dtype)
        for name, dtype in zip(names, _entry_types(matrix), strict=True)
    ]
    for low, high in pairwise(first_row.tolist()):
        _sort_bucket(runs, indptr, low, high)
    (folder / "row.bin").unlink()


def _sort_bucket(runs: list[_FileRun], indptr: np.ndarray, low: int, high: int) -> None:
    """Sort the values of rows `low` to `high`, which lie together, by row."""
    start, stop = int(indptr[low]), int(indptr[high])
    rows = runs[0].read(start, stop)
    order, _ = _counting_order(rows.astype(np.int64) - low, high - low)
    for run in runs[1:]:
        values = run.read(start, stop)[order]
        with open(run.path, "r+b") as handle:
            handle.seek(start * run.dtype.itemsize)
            handle.write(values.data)


def _entry_types(matrix: _Compressed) -> tuple[np.dtype, np.dtype, np.dtype]:
    place = np.dtype(np.int32)
    return place, place, matrix.data.dtype.newbyteorder("=")


def _values_per_row(matrix: _Compressed) -> np.ndarray:
    counts = np.zeros(matrix.shape[0], np.int64)
    total = int(matrix.indptr[-1])
    for start in range(0, total, _BLOCK):
        with reading(matrix.path):
            rows = matrix.indices.read(start, min(start + _BLOCK, total))
        if rows.min() < 0 or rows.max() >= len(counts):
            raise InputError(
                f"{matrix.path}: a value stands in a row that is none of the {len(counts):,}; the file is"
                " damaged, so copy or download it again"
            )
        counts += np.bincount(rows, minlength=len(counts))
    return counts


def _entries_by_column(
    matrix: _Compressed,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, columns and values of a CSC matrix in blocks."""
    total = int(matrix.indptr[-1])
    for start in range(0, total, _BLOCK):
        stop = min(start + _BLOCK, total)
        first = int(np.searchsorted(matrix.indptr, start, side="right")) - 1
        last = int(np.searchsorted(matrix.indptr, stop, side="left"))
        lengths = np.diff(np.clip(matrix.indptr[first : last + 1], start, stop))
        with reading(matrix.path):
            rows = matrix.indices.read(start, stop).astype(np.int32, copy=False)
            values = matrix.data.read(start, stop)
        yield rows, np.repeat(np.arange(first, last, dtype=np.int32), lengths), values
