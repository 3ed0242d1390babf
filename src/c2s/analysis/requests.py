"""Requests in plain English: "generate 7 human beta cells" becomes a task with conditions, or is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from c2s.common.errors import UsageError, listing, nearest
from c2s.models.directory import Model

_NUMBER_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "twelve": 12, "twenty": 20, "fifty": 50, "hundred": 100,
}  # fmt: skip
_ORGANISMS = {
    **dict.fromkeys(("human", "humans"), "Homo sapiens"),
    **dict.fromkeys(("mouse", "mice", "murine"), "Mus musculus"),
}
# Words that carry no condition; what is left after them is a condition that must be known.
_FILLERS = frozenset(
    "generate make write give me please sample simulate create produce show list gene genes lists of for from in the "
    "cell cells type types typed tissue sentence sentences expression profile profiles healthy normal and to with some "
    "a an single new real its their is are that which".split()
)


@dataclass(frozen=True)
class GenerationRequest:
    """What a request asks for.

    Attributes
    ----------
    n
        Number of cells; None where the request names none.
    cell_type
        As the model knows it; None for every type.
    organism
        None where the request names none.
    """

    n: int | None
    cell_type: str | None
    organism: str | None

    def __str__(self) -> str:
        return f"n={self.n or 1}, cell_type={self.cell_type or 'every type'}, organism={self.organism or 'as trained'}"


def parse_generation_request(text: str, model: Model) -> GenerationRequest:
    """Read a request for generated cells.

    The first number is how many; "human" and "mouse" name the organism; of the words that are left, the
    longest run that is a cell type the model knows is the type. Any other condition is refused, because
    leaving it out silently would answer another question.

    Raises
    ------
    UsageError
        The request names a condition that the model never saw; the message says what it knows.

    Examples
    --------
    >>> parse_generation_request("generate 7 human beta cells", model)  # doctest: +SKIP
    GenerationRequest(n=7, cell_type='beta', organism='Homo sapiens')
    """
    known = model.known("cell_type")
    words = _words(text)
    if not words:
        raise UsageError("the request is empty; say for example: generate 7 human beta cells")
    if re.search(r"\d\s+genes?\b", text.casefold()):
        raise UsageError(
            "the request counts genes; give the number of genes of a cell with --top-k"
        )
    organism, words = _take_organism(words, text)
    cell_type, words = _take_type(words, known)
    n, words = _take_number(words)
    rest = [w for w in words if w not in _FILLERS]
    if rest:
        asked = " ".join(rest)
        close = nearest(asked, known)
        raise UsageError(
            f"the model never saw {asked!r}; it knows the cell types {listing(known, 20)}"
            + "".join(f", {k} {listing(v)}" for k, v in model.card.conditions.items() if k != "cell_type")
            + (f" (nearest: {listing(close)})" if close else "")
        )  # fmt: skip
    if organism is not None and organism not in model.known("organism"):
        raise UsageError(
            f"the model never saw {organism!r}; it knows the organism {listing(model.known('organism')) or 'none'}"
        )
    if n is not None and n < 1:
        raise UsageError("the request asks for no cells")
    return GenerationRequest(n, cell_type, organism)


def _words(text: str) -> list[str]:
    """Return the words of a request or a label: letters, digits, + and '; thousands are joined."""
    return re.findall(
        r"[\w+']+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold()).replace("_", " ")
    )


def _take_organism(words: list[str], text: str) -> tuple[str | None, list[str]]:
    latin = {name for name in ("homo sapiens", "mus musculus") if name in text.casefold()}
    found = {name.capitalize() for name in latin} | {
        _ORGANISMS[w] for w in words if w in _ORGANISMS
    }
    if len(found) > 1:
        raise UsageError("the request names two organisms; ask for one at a time")
    used = {part for name in latin for part in name.split()} | set(_ORGANISMS)
    return next(iter(found), None), [w for w in words if w not in used]


def _take_type(words: list[str], known: list[str]) -> tuple[str | None, list[str]]:
    """Return the longest known type that stands in the words as a run, and the words without it."""
    forms = {tuple(_words(label)): label for label in known}
    for length in range(max(map(len, forms), default=0), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            for last in (run[-1], run[-1].removesuffix("s"), run[-1].removesuffix("es")):
                label = forms.get((*run[:-1], last))
                if label is not None:
                    return label, words[:start] + words[start + length :]
    return None, words


def _take_number(words: list[str]) -> tuple[int | None, list[str]]:
    for i, word in enumerate(words):
        if word.isdecimal():
            return int(word), words[:i] + words[i + 1 :]
    for i, word in enumerate(words):
        if word in _NUMBER_WORDS and word not in ("a", "an"):
            return _NUMBER_WORDS[word], words[:i] + words[i + 1 :]
    return None, words
