"""Requests in plain English: "generate 7 human beta cells" becomes a number and conditions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from c2s.common.errors import UsageError, listing, nearest
from c2s.models.directory import Model

_NUMBER_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "twenty": 20, "fifty": 50,
}  # fmt: skip
# Numbers that others multiply: two dozen, a hundred.
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000}
# Between a number and the genes that it counts: "the 100 most highly expressed genes".
_RANKED = frozenset("top most highest highly expressed".split())
# Between a number of cells and the word genes: "5 lists of genes", "3 beta cells with genes".
_CELLS = frozenset("list lists sentence sentences profile profiles cell cells of with".split())
# "A 100 gene list" has 100 genes, "3 gene lists" are those of three cells.
_ONE_LIST = (["list"], ["sentence"], ["profile"])
_LISTS = (["lists"], ["sentences"], ["profiles"], ["expression"])
_ORGANISMS = {
    **dict.fromkeys(("human", "humans"), "Homo sapiens"),
    **dict.fromkeys(("mouse", "mice", "murine"), "Mus musculus"),
}
# Words that carry no condition; what is left after them is a condition that must be known.
_FILLERS = frozenset(
    "generate make write give me please sample simulate create produce show list gene genes lists of for from in the "
    "cell cells type types typed tissue sentence sentences expression profile profiles healthy normal and to with some "
    "a an single new real its their is are that which top each per every exactly".split()
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
    top_k
        Genes of each cell; None where the request names no number of them.
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
    top_k: int | None = None
    unknown: str = ""
    text: str = field(default="", compare=False)
    why_unknown: str = field(default="", compare=False)

    def __str__(self) -> str:
        named = {"cell_type": self.cell_type, "tissue": self.tissue, "organism": self.organism}
        conditions = [f"{name}={value}" for name, value in named.items() if value]
        genes = [f"top_k={self.top_k}"] if self.top_k else []
        together = ["as one sample"] if self.together else []
        return ", ".join([f"n={self.n or 1}", *conditions, *genes, *together])

    def beside(
        self, n: int | None = None, organism: str | None = None, top_k: int | None = None
    ) -> GenerationRequest:
        """Return the request with numbers and an organism that were given apart from it.

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
        if top_k is not None and self.top_k not in (None, top_k):
            raise UsageError(
                f"the request says {self.top_k} genes, and top_k={top_k} is given; give one"
            )
        return replace(
            self, n=self.n or n, organism=self.organism or organism, top_k=self.top_k or top_k
        )


def parse_generation_request(text: str, model: Model) -> GenerationRequest:
    """Read a request for generated cells.

    A number of genes ("of 100 genes") is that of each cell, the first other number is how many cells; "human" and
    "mouse" name the organism, and so do the names of others that the model knows; of the words that are left, the
    longest run that is a cell type the model knows is the type, and the longest that is a tissue it knows is the
    tissue. "One sample" or "one donor" asks for cells that are written together. Words that are left then are
    `unknown`: leaving them out silently would answer another question.

    Raises
    ------
    UsageError
        The request is empty; asks for no cells, less than none, or no genes; counts genes in a way that is not
        understood; or names two organisms, cell types or tissues.

    Examples
    --------
    >>> parse_generation_request("generate 7 human beta cells", model)  # doctest: +SKIP
    GenerationRequest(n=7, cell_type='beta', organism='Homo sapiens')
    """
    words = _words(text)
    if not words:
        raise UsageError("the request is empty; say for example: generate 7 human beta cells")
    if below := re.search(r"(?<!\S)[-−–](\d+)", text):
        raise UsageError(f"the request asks for -{below[1]} cells; ask for at least 1")
    top_k, words = _take_genes(words)
    organism, words = _take_organism(words, text)
    if organism is None:
        organism, words = _take_known(words, model.known("organism"))
    cell_type, words = _take_known(words, model.known("cell_type"))
    tissue, words = _take_known(words, model.known("tissue"))
    together, words = _take_together(words)
    n, words = _take_number(words)
    if n is not None and n < 1:
        raise UsageError("the request asks for no cells")
    _refuse_two(model, words, {"cell_type": cell_type, "tissue": tissue})
    unknown = _without_fillers(words)
    return GenerationRequest(
        n, cell_type, organism, tissue, together, top_k, unknown, text, _why(unknown, model)
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
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold()).replace("_", " ")
    return re.findall(r"[\w+']+", re.sub(r"(?<=\d)-gene\b", " genes", text))


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
                    rest = words[:start] + words[start + length :]
                    return label, _take_known(rest, [label])[1]  # said twice, it is one condition
    return None, words


def _take_together(words: list[str]) -> tuple[bool, list[str]]:
    """Return whether the words ask for one sample ("one donor", "a sample of"), and the words without that."""
    for start in range(len(words) - 1):
        first, second = words[start : start + 2]
        one = first in ("one", "same", "single", "a") and second in ("sample", "donor")
        if one or (first, second) == ("sample", "of"):
            return True, words[:start] + words[start + 2 :]
    return False, words


def _without_fillers(words: list[str]) -> str:
    return " ".join(word for word in words if word not in _FILLERS)


def _refuse_two(model: Model, words: list[str], found: dict[str, str | None]) -> None:
    """Refuse a request that would be understood but for another cell type or tissue beside the first.

    One with other unknown words goes to the model as it is, both names in it.
    """
    for condition, first in found.items():
        second, rest = _take_known(words, model.known(condition))
        if first is not None and second is not None and not _without_fillers(rest):
            raise UsageError(
                f"the request names two of {condition}, {first} and {second}; ask for one at a time"
            )


def _take_genes(words: list[str]) -> tuple[int | None, list[str]]:
    """Return how many genes each cell is to have ("of 100 genes", "a 100 gene list"), and the words without that.

    Raises
    ------
    UsageError
        It is below 1, there are two such numbers, or they are genes of a kind that is not understood.
    """
    for start in range(len(words)):
        number, length = _number_at(words, start)
        if number is None:
            continue
        behind = words[start + length : start + length + 4]
        place = next((i for i, word in enumerate(behind) if word in ("gene", "genes")), None)
        if place is None or _CELLS.intersection(behind[:place]):
            continue
        single, after = behind[place] == "gene", words[start + length + place + 1 :][:1]
        if single and (number == 1 or after in _LISTS):
            continue
        if not _RANKED.issuperset(behind[:place]) or (single and after not in _ONE_LIST):
            asked = " ".join([*words[start : start + length], *behind[: place + 1]])
            raise UsageError(
                f"the request counts genes ({asked!r}); say how many each cell has, as '{number} genes'"
            )
        if number < 1:
            raise UsageError("the request asks for cells without genes; ask for at least 1 gene")
        rest = [*words[:start], *words[start + length + place + 1 :]]
        if _take_genes(rest)[0] is not None:
            raise UsageError("the request names two numbers of genes; give one")
        return number, rest
    return None, words


def _take_number(words: list[str]) -> tuple[int | None, list[str]]:
    """Return the first number that is in digits, else the first in words, and the words without it."""
    starts = [start for start in range(len(words)) if _number_at(words, start)[1]]
    if not starts:
        return None, words
    start = next((start for start in starts if words[start].isdecimal()), starts[0])
    number, length = _number_at(words, start)
    return number, [*words[:start], *words[start + length :]]


def _number_at(words: list[str], start: int) -> tuple[int | None, int]:
    """Return the number that begins at a word and how many words it takes; None and 0 where none does."""
    if words[start : start + 3] == ["half", "a", "dozen"]:
        return 6, 3
    word, then = words[start], words[start + 1 : start + 2]
    scale = _SCALES.get(then[0]) if then else None
    number = int(word) if word.isdecimal() else _NUMBER_WORDS.get(word)
    if number is None and word in ("a", "an") and scale is not None:
        number = 1
    if number is not None:
        return (number, 1) if scale is None else (number * scale, 2)
    return (_SCALES[word], 1) if word in _SCALES else (None, 0)
