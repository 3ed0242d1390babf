"""Gene sets from GMT files, as MSigDB publishes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from c2s.common.errors import InputError, warn


@dataclass(frozen=True)
class GeneSet:
    """A named set of genes.

    Attributes
    ----------
    name
        As in the file, such as `HALLMARK_INTERFERON_ALPHA_RESPONSE`.
    description
        The second field of its line, often an address or `>`.
    genes
        Symbols in upper case, each once, in the order of the file.
    """

    name: str
    description: str
    genes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name as a text of words: underscores are spaces."""
        return " ".join(self.name.replace("_", " ").split())


def read_gmt(path: str | os.PathLike[str], *, skip_bad: bool = False) -> list[GeneSet]:
    """Read a GMT file: a line a set, with its name, a description and its genes, separated by tabs.

    Parameters
    ----------
    path
        The file.
    skip_bad
        Leave out a line that is wrong, with a warning, instead of refusing the file.

    Raises
    ------
    InputError
        The file cannot be read or holds no set; or a line has no genes, or a name comes twice, and the line is named.
    """
    try:
        # Not splitlines, which would cut a description at rare control characters too.
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no GMT file, for it is not text in UTF-8 ({error.reason} at byte {error.start:,})"
        ) from error
    sets: list[GeneSet] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = _gene_set(line, f"{path}: line {number:,}", seen)
        except InputError as error:
            if not skip_bad:
                raise
            warn(f"{error}; it is left out")
            continue
        seen[found.name] = number
        sets.append(found)
    if not sets:
        raise InputError(f"{path}: holds no gene set")
    return sets


def _gene_set(line: str, where: str, seen: Mapping[str, int]) -> GeneSet:
    """Return the set of a line; `seen` says in which lines the sets before it stand."""
    name, description, *genes = [*(part.strip() for part in line.split("\t")), ""]
    words = tuple(dict.fromkeys(g.upper() for g in genes if g))
    if not name or not words:
        raise InputError(
            f"{where} ({line[:40]!r}) has no genes; expected a name, a description and genes, separated by tabs"
        )
    if any(c.isspace() for g in words for c in g):
        raise InputError(f"{where} ({name}) has a gene with white space in its name")
    if name in seen:
        raise InputError(f"{where} repeats the set {name!r} of line {seen[name]:,}")
    return GeneSet(name, description, words)
