"""Dictionaries of texts and numbers out of pickle files, without running what the file says.

A pickle is a program: `pickle.load` imports and calls whatever it names. The rule of this project is never to unpickle.
Some published models keep plain tables in pickles, and those are read here as data: containers, texts and numbers are
built, NumPy's scalars are turned into Python's by code of our own, and any other name in the file ends the reading
before it is looked up.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from c2s.common.errors import InputError

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
_LFS = b"version https://git-lfs"


class _NumberType:
    """Stands for `numpy.dtype` while a pickle is read; knows plain numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"the file holds a NumPy value of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">", "|": "="}[state[1]]


def _scalar(kind: _NumberType, value: bytes) -> Any:
    """Stands for NumPy's maker of scalars while a pickle is read."""
    if not isinstance(kind, _NumberType) or not isinstance(value, bytes):
        raise pickle.UnpicklingError("the file holds a NumPy value that is no number")
    (number,) = np.frombuffer(value, dtype=kind.order + kind.code).tolist()
    return number


_KNOWN = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, texts and numbers; refuses every other name, without importing it."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _KNOWN:
            raise pickle.UnpicklingError(f"the file names {module_name}.{global_name}")
        return _KNOWN[module_name, global_name]


def read_table(path: Path) -> dict[Any, Any]:
    """Read a dictionary from a .pkl file, or from the .json file of the same stem where there is one.

    Parameters
    ----------
    path
        The .pkl file, whether or not it exists.

    Returns
    -------
    dict
        As stored; NumPy's numbers become Python's.

    Raises
    ------
    InputError
        The file cannot be read, is no dictionary, or would have to run something to be read. Nothing of it was run.
    """
    as_json = path.with_suffix(".json")
    try:
        content = _json(as_json) if as_json.is_file() else _plain(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected a dictionary")
    return content


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


def _plain(path: Path) -> object:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise InputError(
                f"{path}: found a Git LFS pointer, expected the file itself; fetch it with `git lfs pull`"
            )
        file.seek(0)
        try:
            return _PlainUnpickler(file).load()
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path}: {error}, and is not unpickled; expected a dictionary of texts and numbers; if you trust "
                f"the file, write it as {path.with_suffix('.json').name}"
            ) from error
        except (
            Exception
        ) as error:  # the pickle module promises no list of what a broken file raises
            raise InputError(
                f"{path}: cannot be read as a dictionary ({type(error).__name__}); the file is damaged"
            ) from error
