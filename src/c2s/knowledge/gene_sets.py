"""Gene sets from GMT files, as MSigDB publishes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from c2s.common.errors import InputError


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


def read_gmt(path: str | os.PathLike[str]) -> list[GeneSet]:
    """Read a GMT file: a line a set, with its name, a description and its genes, separated by tabs.

    Raises
    ------
    InputError
        The file cannot be read, a line has no genes, or a name comes twice; the line is named.
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
        name, description, *genes = [*(part.strip() for part in line.split("\t")), ""]
        words = tuple(dict.fromkeys(g.upper() for g in genes if g))
        if not name or not words:
            raise InputError(
                f"{path}: line {number:,} ({line[:40]!r}) has no genes; expected a name, a description and genes,"
                " separated by tabs"
            )
        if any(c.isspace() for g in words for c in g):
            raise InputError(
                f"{path}: line {number:,} ({name}) has a gene with white space in its name"
            )
        if name in seen:
            raise InputError(
                f"{path}: line {number:,} repeats the set {name!r} of line {seen[name]:,}"
            )
        seen[name] = number
        sets.append(GeneSet(name, description, words))
    if not sets:
        raise InputError(f"{path}: holds no gene set")
    return sets
