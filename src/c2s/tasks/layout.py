"""How several cells, or the labels of several cells, are written in one text, and read back from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from c2s.common.errors import InputError
from c2s.tasks.template import Template, places

T = TypeVar("T")

#: What each entry of a layout holds: a cell, or the label of one.
Thing = Literal["cell_sentence", "cell_type"]

#: Our own layout: an entry a line, each with its number.
EACH_CELL = "Cell {number}: {cell_sentence}"
EACH_LABEL = "Cell {number}: {cell_type}"
BETWEEN = "\n"


@dataclass(frozen=True)
class Layout:
    """How several things are written one after another.

    Attributes
    ----------
    each
        One entry: the place of the thing, and `{number}` (from 1) before it where entries are numbered.
    between
        What stands between two entries.

    Examples
    --------
    >>> layout = Layout.parse("Cell {number}: {cell_type}", "cell_type")
    >>> "".join(layout.write(["alpha", "beta"]))
    'Cell 1: alpha\\nCell 2: beta'
    >>> layout.read("Cell 2: beta\\nCell 1: alpha", 3)
    ['alpha', 'beta', None]
    """

    each: Template
    between: str

    @classmethod
    def parse(cls, each: str, thing: Thing, between: str = BETWEEN) -> Layout:
        """Parse the text of an entry.

        Raises
        ------
        InputError
            The entry has other places than it should, or entries written so could not be told apart.
        """
        template = Template.parse(each)
        fields = [field for _, field in template.parts if field]
        if fields not in ([thing], ["number", thing]):
            raise InputError(
                f"{each!r} must have the place {{{thing}}} once, and before it at most {{number}}; "
                f"it has: {places(fields) or 'none'}"
            )
        layout = cls(template, between)
        beside = layout._before[-1]
        if len(fields) == 2 and (not beside or beside[0].isdigit()):
            raise InputError(f"{each!r} needs a text between {{number}} and {{{thing}}}")
        gap = layout._joint
        if not gap or not (layout._marked or gap.strip() or "\n" in gap):
            raise InputError(
                f"{each!r} with {between!r} between entries would run them together; put a line break there"
            )
        return layout

    def write(self, things: Sequence[T]) -> list[str | T]:
        """Return the things with the text before, between and behind them."""
        if not len(things):
            return []
        first, *joints, last = self._english(len(things))
        written: list[str | T] = [first, things[0]]
        for joint, thing in zip(joints, things[1:], strict=True):
            written += (joint, thing)
        return [*written, last]

    def read(self, text: str, n: int) -> list[str | None]:
        """Return the text of each of the first `n` entries, None for one that is missing or empty.

        An entry begins at the start of the text or of a line, or behind what the layout writes between
        entries. Numbered ones are taken by number, the first of each; others in their order. White space
        and case of what stands around the entries do not matter.
        """
        text = text.strip().removesuffix(self._after.strip())
        found: list[str | None] = [None] * n
        if not self._marked:
            for at, item in enumerate(self._gap.split(text)[:n]):
                found[at] = item.strip() or None
            return found
        marks = list(self._mark.finditer(text))
        for order, mark in enumerate(marks):
            end = marks[order + 1].start() if order + 1 < len(marks) else len(text)
            at = int(mark["number"]) - 1 if len(self._before) == 2 else order
            if 0 <= at < n and found[at] is None:
                found[at] = text[mark.end() : end].strip() or None
        return found

    @property
    def _before(self) -> list[str]:
        """Literal texts before the thing: one, or those around the number."""
        return [literal for literal, field in self.each.parts if field]

    @property
    def _after(self) -> str:
        return "".join(literal for literal, field in self.each.parts if field is None)

    @property
    def _marked(self) -> bool:
        """Whether something stands before each thing that tells where it begins."""
        return len(self._before) == 2 or bool(self._before[0].strip())

    def _english(self, n: int) -> tuple[str, ...]:
        """Return the n + 1 texts around n things, made once for each n."""
        if n not in self._made:
            starts = [str(i + 1).join(self._before) for i in range(n)]
            joints = [self._after + self.between + start for start in starts[1:]]
            self._made[n] = (starts[0], *joints, self._after)
        return self._made[n]

    @cached_property
    def _made(self) -> dict[int, tuple[str, ...]]:
        return {}

    @property
    def _joint(self) -> str:
        """What stands between two entries, up to the first word of the next."""
        start = self._before[0]
        return self._after + self.between + start[: len(start) - len(start.lstrip())]

    @cached_property
    def _gap(self) -> re.Pattern[str]:
        return re.compile(rf"{_loose(self._joint)}|\s*\n\s*")

    @cached_property
    def _mark(self) -> re.Pattern[str]:
        """The words before an entry, where one may begin; the white space behind them is not taken."""
        first, *more = self._before
        words = [first.lstrip(), more[0].rstrip()] if more else [first.strip()]
        number = r"(?P<number>[0-9]{1,9})(?![0-9])\s*"
        pattern = number.join(r"\s*".join(map(re.escape, re.split(r"\s+", w))) for w in words)
        return re.compile(rf"(?:\A|{self._gap.pattern}){pattern}", re.IGNORECASE)


def _loose(text: str) -> str:
    """Return a pattern for a text whose white space may be less or more, except that a line break stays one."""
    pattern = ""
    for run in re.findall(r"\s+|\S+", text):
        if not run.isspace():
            pattern += re.escape(run)
        elif "\n" in run:
            pattern += r"\s*\n\s*"
        else:
            pattern += r"\s*" if text.strip() else r"\s+"
    return pattern


#: How cells and their types are written where a pack does not say otherwise.
CELLS = Layout.parse(EACH_CELL, "cell_sentence")
LABELS = Layout.parse(EACH_LABEL, "cell_type")
