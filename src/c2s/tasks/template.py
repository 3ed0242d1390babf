"""Text with named places, parsed once and filled many times."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.tokens.tokenizer import Segment

#: What stands for a cell or a list of genes: an array of columns, or a row number in the corpus engine.
T = TypeVar("T")


@dataclass(frozen=True)
class Template:
    """Text with named places, parsed once.

    Attributes
    ----------
    parts
        Pairs of literal text and the field that follows it, or None at the end.
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse `{field}` places.

        Raises
        ------
        InputError
            A brace does not close, or a place has a format or an index.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InputError(f"the prompt {text[:60]!r} has a brace that does not close") from error
        for _, field, spec, conversion in parsed:
            if field is not None and (not field.isidentifier() or spec or conversion):
                raise InputError(
                    f"the prompt {text[:60]!r} has a place that is not a plain name: {{{field}}}"
                )
        return cls(tuple((literal, field) for literal, field, _, _ in parsed))

    @property
    def text(self) -> str:
        """The text that `parse` makes this template of."""
        return "".join(
            literal.replace("{", "{{").replace("}", "}}") + (f"{{{field}}}" if field else "")
            for literal, field in self.parts
        )

    @property
    def fields(self) -> frozenset[str]:
        """Names of the places."""
        return frozenset(field for _, field in self.parts if field)

    def renamed(self, names: Mapping[str, str]) -> Template:
        """Return the template with other names for some places."""
        return Template(tuple((lit, names.get(f, f) if f else f) for lit, f in self.parts))

    def fill(self, values: Mapping[str, str | int | np.ndarray]) -> list[Segment]:
        """Return the segments with `values` in the places; a cell (an array of columns) stays an array.

        Raises
        ------
        UsageError
            A value is missing.
        """
        cells = {name: [value] for name, value in values.items() if isinstance(value, np.ndarray)}
        return self.place(values, cells)

    def place(
        self, texts: Mapping[str, object], pieces: Mapping[str, Sequence[str | T]]
    ) -> list[str | T]:
        """Return the text with what belongs in its places, English that touches merged into one string.

        Parameters
        ----------
        texts
            What is written as text.
        pieces
            What is put in as it is, by place: any objects, with strings between them. A name in both is
            taken from here.

        Raises
        ------
        UsageError
            A value is missing, or None.
        """
        placed: list[str | T] = []
        english = ""
        for literal, field in self.parts:
            english += literal
            if field is None:
                continue
            inserted = pieces.get(field)
            if inserted is None:
                english += _text(texts, field)
                continue
            for piece in inserted:
                if isinstance(piece, str):
                    english += piece
                else:
                    placed += [english, piece] if english else [piece]
                    english = ""
        return [*placed, english] if english else placed


def places(names: Iterable[str]) -> str:
    """Return names as places are written, for messages."""
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def _text(texts: Mapping[str, object], field: str) -> str:
    value = texts.get(field)
    if value is None:
        raise UsageError(f"the prompt needs {field!r}, which was not given")
    return str(value)
