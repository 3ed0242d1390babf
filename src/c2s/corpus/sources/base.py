"""What every source of cells can do, and one line for whatever goes wrong while a file is read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from c2s.cells.preprocess import is_mitochondrial
from c2s.cells.vocabulary import SYMBOL_COLUMNS, GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError, listing, nearest

#: Where symbols of gene ids are found, as in `GeneVocabulary.from_var`.
GeneNames = Mapping[str, str] | str | None


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

    def values_per_row(self) -> float:
        """Return how many values a row has about, for sources that do not say it of each; here all genes."""
        return float(len(self.vocabulary))

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
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {listing(known) or 'none'}"
            raise UsageError(f"{self.path}: obs has no column {name!r}; {hint}")


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


def vocabulary_of(
    path: str,
    columns: Sequence[str],
    read_var: Callable[[list[str]], pd.DataFrame],
    gene_names: GeneNames,
) -> GeneVocabulary:
    """Make the vocabulary of a file, reading no columns of `var` but those that hold symbols.

    Parameters
    ----------
    path
        The file, for messages.
    columns
        The names of the columns of `var`.
    read_var
        Reads some of them, with the names of the genes as index.
    gene_names
        As in `GeneVocabulary.from_var`.

    Raises
    ------
    InputError
        There is no column `gene_names`, or the genes make no vocabulary.
    """
    given = [gene_names] if isinstance(gene_names, str) else []
    if not set(given) <= set(columns):
        raise InputError(
            f"{path}: var has no column {gene_names!r}; it has: {listing(columns) or 'none'}"
        )
    var = read_var([c for c in columns if c in (*SYMBOL_COLUMNS, *given)])
    try:
        return GeneVocabulary.from_var(var, gene_names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
