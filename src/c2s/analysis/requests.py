"""Requests in plain English: "generate 7 human beta cells" becomes a number and conditions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

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
    cell_type, tissue
        As the model knows them; None where the request names none.
    organism
        None where the request names none.
    together
        Whether the cells are to be those of one sample.
    unknown
        Words that are none of these; where there are any, the conditions that were found are not all that was asked.
    text
        The request as it was asked.
    why_unknown
        What the model knows instead of the unknown words.
    """

    n: int | None
    cell_type: str | None
    organism: str | None
    tissue: str | None = None
    together: bool = False
    unknown: str = ""
    text: str = field(default="", compare=False)
    why_unknown: str = field(default="", compare=False)

    def __str__(self) -> str:
        named = {"cell_type": self.cell_type, "tissue": self.tissue, "organism": self.organism}
        conditions = [f"{name}={value}" for name, value in named.items() if value]
        together = ["as one sample"] if self.together else []
        return ", ".join([f"n={self.n or 1}", *conditions, *together])

    def beside(self, n: int | None = None, organism: str | None = None) -> GenerationRequest:
        """Return the request with a number and an organism that were given apart from it.

        Raises
        ------
        UsageError
            It says something else.
        """
        if organism is not None and self.organism not in (None, organism):
            raise UsageError(
                f"the request says {self.organism}, the organism given is {organism}; give one"
            )
        if n is not None and self.n not in (None, n):
            raise UsageError(f"the request says {self.n} cells, the number given is {n}; give one")
        return replace(self, n=self.n or n, organism=self.organism or organism)


def parse_generation_request(text: str, model: Model) -> GenerationRequest:
    """Read a request for generated cells.

    The first number is how many; "human" and "mouse" name the organism, and so do the names of others that the model
    knows; of the words that are left, the longest run that is a cell type the model knows is the type, and the longest
    that is a tissue it knows is the tissue. "One sample" or "one donor" asks for cells that are written together. Words
    that are left then are `unknown`: leaving them out silently would answer another question.

    Raises
    ------
    UsageError
        The request is empty, asks for no cells, names two organisms or counts genes.

    Examples
    --------
    >>> parse_generation_request("generate 7 human beta cells", model)  # doctest: +SKIP
    GenerationRequest(n=7, cell_type='beta', organism='Homo sapiens')
    """
    words = _words(text)
    if not words:
        raise UsageError("the request is empty; say for example: generate 7 human beta cells")
    if re.search(r"\d\s+genes?\b", text.casefold()):
        raise UsageError(
            "the request counts genes; give the number of genes of a cell with --top-k"
        )
    organism, words = _take_organism(words, text)
    if organism is None:
        organism, words = _take_known(words, model.known("organism"))
    cell_type, words = _take_known(words, model.known("cell_type"))
    tissue, words = _take_known(words, model.known("tissue"))
    together, words = _take_together(words)
    n, words = _take_number(words)
    if n is not None and n < 1:
        raise UsageError("the request asks for no cells")
    unknown = " ".join(w for w in words if w not in _FILLERS)
    return GenerationRequest(
        n, cell_type, organism, tissue, together, unknown, text, _why(unknown, model)
    )


def _why(unknown: str, model: Model) -> str:
    """Return what the model knows instead of words that are no condition of it."""
    if not unknown:
        return ""
    known = {"cell_type": model.known("cell_type"), **model.card.conditions}
    named = ", ".join(f"{k} {listing(v, 20) or 'none'}" for k, v in known.items())
    close = nearest(unknown, [value for values in known.values() for value in values])
    return f"the model never saw {unknown!r}; it knows: {named}" + (
        f" (nearest: {listing(close)})" if close else ""
    )


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


def _take_known(words: list[str], known: list[str]) -> tuple[str | None, list[str]]:
    """Return the longest known label that stands in the words as a run, and the words without it."""
    forms = {tuple(_words(label)): label for label in known}
    for length in range(max(map(len, forms), default=0), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            for last in (run[-1], run[-1].removesuffix("s"), run[-1].removesuffix("es")):
                label = forms.get((*run[:-1], last))
                if label is not None:
                    return label, words[:start] + words[start + length :]
    return None, words


def _take_together(words: list[str]) -> tuple[bool, list[str]]:
    """Return whether the words ask for one sample ("one donor", "a sample of"), and the words without that."""
    for start in range(len(words) - 1):
        first, second = words[start : start + 2]
        one = first in ("one", "same", "single", "a") and second in ("sample", "donor")
        if one or (first, second) == ("sample", "of"):
            return True, words[:start] + words[start + 2 :]
    return False, words


def _take_number(words: list[str]) -> tuple[int | None, list[str]]:
    for i, word in enumerate(words):
        if word.isdecimal():
            return int(word), words[:i] + words[i + 1 :]
    for i, word in enumerate(words):
        if word in _NUMBER_WORDS and word not in ("a", "an"):
            return _NUMBER_WORDS[word], words[:i] + words[i + 1 :]
    return None, words
