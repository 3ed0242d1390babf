"""Tables of cells and genes in h5ad and zarr, of every version of anndata: columns as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa

from c2s.common.errors import InputError

# Labels that are held at a time where a whole column is walked through.
_BLOCK = 1 << 20
# How files and people write that there is no label.
_MISSING = frozenset(("", "nan", "NaN", "<NA>"))


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


class Table:
    """`obs` or `var`: a group with an array per column, or one array of records before anndata 0.7.

    Parameters
    ----------
    path
        The file, for messages.
    root
        Its root, a group of h5py or zarr.
    key
        Where the table is in it.
    """

    def __init__(self, path: str, root: Any, key: str) -> None:
        self.path, self.root, self.node = path, root, root[key]
        self.records = not is_group(self.node)
        attrs = self.node.attrs
        self.index = (
            self.node.dtype.names[0] if self.records else word(attrs.get("_index", "_index"))
        )

    def __len__(self) -> int:
        if self.records:
            return int(self.node.shape[0])
        return _length(self.node[self.index])

    def columns(self) -> list[str]:
        """Return the names of the columns, the index not among them, in the file's order."""
        if self.records:
            return [str(c) for c in self.node.dtype.names[1:]]
        ordered = self.node.attrs.get("column-order")
        known = list(self.node.keys()) if ordered is None else [word(c) for c in ordered]
        return [c for c in known if c not in (self.index, "__categories")]

    def names(self, start: int, stop: int) -> pa.Array:
        """Read the index of rows `start` to `stop`, the last not included. large_string, shape (n,)."""
        node = self.node if self.records else self.node[self.index]
        values = node[start:stop][self.index] if self.records else _slice(node, start, stop)
        return pa.array([word(v) for v in values], pa.large_string())

    def column(self, name: str) -> pa.DictionaryArray:
        """Read a column as text, as `CellSource.column` gives it.

        Raises
        ------
        InputError
            It is of a kind that holds no labels.
        ValueError
            It is damaged.
        """
        if self.records:
            codes, levels = _factorized(lambda a, b: self.node[a:b][name], len(self))
            return labels(codes, self._old_categories(name, levels))
        node = self.node[name]
        if is_group(node) and not {"codes", "values"} & set(node.keys()):
            kind = word(node.attrs.get("encoding-type", "a group"))
            raise InputError(
                f"{self.path}: the column {name!r} is stored as {kind!r}; labels are expected"
            )
        if is_group(node) and "codes" in node:
            return _coded(np.asarray(node["codes"][:]), _all(node["categories"]))
        if "categories" in node.attrs:  # anndata 0.7: a reference, or a name, in this group
            return _coded(np.asarray(node[:]), _all(self.node[node.attrs["categories"]]))
        return labels(*_factorized(lambda a, b: _slice(node, a, b), _length(node)))

    def _old_categories(self, name: str, levels: list[Any]) -> list[Any]:
        """Return what the numbers in a column of records stand for, or the numbers."""
        given = f"uns/{name}_categories"
        if given not in self.root or not all(isinstance(v, np.integer) for v in levels):
            return levels
        words = _all(self.root[given])
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
    if is_group(node):
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
    if not is_group(node) and node.shape == ():  # a single category of an old file
        return np.asarray([node[()]], dtype=object)
    return _slice(node, 0, _length(node))


def _length(node: Any) -> int:
    if is_group(node):
        return int(node["codes" if "codes" in node else "values"].shape[0])
    return int(node.shape[0])


def is_group(node: Any) -> bool:
    """Whether a node of h5py or zarr is a group, not an array."""
    return hasattr(node, "keys")


def word(value: object) -> str:
    """Return what is text, or bytes of text as old files have them, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _text(level: object) -> str | None:
    if level is None or level is pd.NA or level != level:  # NaN is unequal to itself
        return None
    text = word(level)
    return None if text.strip() in _MISSING else text
