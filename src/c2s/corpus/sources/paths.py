"""What stands for a source in a recipe: a path, a pattern of paths, or the word for the packaged data."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from c2s.common.errors import InputError
from c2s.common.files import sha256
from c2s.corpus.sources.base import reading

#: The word that stands for the packaged data where a path is expected.
PACKAGED = "pancreas"


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
