"""Paraphrases of study abstracts: targets and conditions that do not repeat one text word for word (SPEC §11).

The paper took 500 paraphrases of each abstract from GPT-3.5-Turbo-1106; its wording is not published, and
this is ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from c2s.common.errors import C2SError, InputError, UsageError, listing, warn
from c2s.teachers.cache import Answer, Request
from c2s.teachers.client import Failure, Teacher

#: How an abstract is to be told. Paraphrase `i` takes style `i mod 10`, so that neighbours differ.
STYLES = (
    "Rewrite it in your own words, at about the same length.",
    "Rewrite it for readers of another field: plain sentences, the technical names kept.",
    "Retell it in another order: first what was found, then how, and last why it was studied.",
    "Rewrite it as a sober report in the passive voice.",
    "Rewrite it as the authors might tell it in a talk, in the first person plural.",
    "Condense it to about half its length, keeping the question, the material and the main finding.",
    "Rewrite it in short sentences with one statement each.",
    "Rewrite it as the description of a data set: what was sampled, from whom, how it was measured, what it shows.",
    "Rewrite it as an editor's summary that says why the work matters.",
    "Rewrite it so that it opens with the tissue and the cells that were studied.",
)

_PROMPT = """\
Here is the abstract of a single-cell study. {style} Copy the names of genes, cell types, tissues, organisms and \
diseases, and all numbers, as they stand; claim nothing that the abstract does not claim. Answer in running text \
with the rewritten abstract alone: no heading, no list, no quotation marks, no remarks.

{abstract}"""

#: Sample numbers of the second attempt lie this far above those of the first, and so on.
_ATTEMPT = 1_000_000

_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_QUOTES = ('""', "''", "“”", "‘’", "«»")


def paraphrase_requests(studies: Mapping[str, str], n: int) -> list[Request]:
    """Return the questions for `n` paraphrases of each abstract, for `Teacher.estimate`.

    Raises
    ------
    UsageError
        `n` is not between 1 and 1,000,000.
    InputError
        An abstract is empty.
    """
    if not 1 <= n <= _ATTEMPT:
        raise UsageError(f"paraphrases = {n}: must be between 1 and {_ATTEMPT:,} for each study")
    for study, abstract in studies.items():
        if not abstract.strip():
            raise InputError(f"study {study!r}: the abstract is empty")
    return [
        _request(study, abstract, i, 0) for study, abstract in studies.items() for i in range(n)
    ]


def _request(study: str, abstract: str, slot: int, attempt: int) -> Request:
    prompt = _PROMPT.format(style=STYLES[slot % len(STYLES)], abstract=abstract.strip())
    # One message: the chat templates of some models know no system message.
    return Request(f"study {study!r}", (("user", prompt),), slot + attempt * _ATTEMPT)


def paraphrases(
    studies: Mapping[str, str],
    n: int,
    teacher: Teacher,
    on_progress: Callable[[int], None] | None = None,
    *,
    attempts: int = 4,
) -> dict[str, list[str]]:
    """Return up to `n` paraphrases of each abstract.

    An answer that is empty, cut off at `max_tokens`, or the same as the abstract or as another paraphrase is asked
    for again with another sample number. A study that lacks paraphrases after the last attempt is named in a
    warning. The same answers give the same result, in whatever order they came.

    Parameters
    ----------
    studies
        Abstract of each study.
    n
        Paraphrases of each.
    teacher
        Who is asked.
    on_progress
        Told how many more of the `n` questions of each study are done; those asked again are not counted.
    attempts
        How often a paraphrase is asked for, at most.

    Returns
    -------
    dict
        Studies in the order given; of each, its paraphrases in the order of their numbers, white space collapsed.

    Raises
    ------
    UsageError, InputError
        As `paraphrase_requests` and `Teacher.ask`.
    C2SError
        The endpoint failed for some study after all the others were done; what it answered is kept, and
        running again asks for the rest.
    """
    requests = paraphrase_requests(studies, n)
    slots = [(study, i) for study in studies for i in range(n)]
    found: dict[tuple[str, int], str] = {}
    taken = {study: {_folded(abstract)} for study, abstract in studies.items()}
    refused: dict[str, Counter[str]] = {study: Counter() for study in studies}
    failures: dict[str, Failure] = {}
    for attempt in range(attempts):
        again = []
        answers = teacher.ask(requests, on_progress if attempt == 0 else None)
        for (study, i), answer in zip(slots, answers, strict=True):
            if isinstance(answer, Failure):
                failures.setdefault(study, answer)
                continue
            text = clean(answer.text)
            problem = _problem(answer, text, taken[study])
            if problem is None:
                found[study, i] = text
                taken[study].add(_folded(text))
            else:
                refused[study][problem] += 1
                again.append((study, i))
        slots = again
        if not slots:
            break
        requests = [_request(study, studies[study], i, attempt + 1) for study, i in slots]
    _raise_failures(failures, teacher)
    result = {
        study: [found[study, i] for i in range(n) if (study, i) in found] for study in studies
    }
    for study, texts in result.items():
        if len(texts) < n:
            # Named, not raised: asking once more gives the same answers from the cache.
            warn(_shortage(study, len(texts), n, refused[study], teacher))
    return result


def clean(text: str) -> str:
    """Return an answer without its thoughts, surrounding quotation marks and line breaks."""
    text = " ".join(_THINKING.sub(" ", text).split())
    if len(text) > 2 and text[0] + text[-1] in _QUOTES:
        inner = text[1:-1]
        # `"A" and "B"` opens and closes with quotation marks that do not belong together.
        if text[0] not in inner and text[-1] not in inner:
            return inner.strip()
    return text


def _folded(text: str) -> str:
    """Return what makes two texts the same: their letters and digits, without case."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _problem(answer: Answer, text: str, taken: set[str]) -> str | None:
    """Return why an answer cannot be used, or None."""
    if answer.finish == "length":
        return "cut off at max_tokens"
    if not _folded(text):
        return "empty"
    if _folded(text) in taken:
        return "the same as the abstract or another paraphrase"
    return None


def _raise_failures(failures: Mapping[str, Failure], teacher: Teacher) -> None:
    if not failures:
        return
    first = next(iter(failures.values()))
    others = [repr(study) for study in failures][1:]
    also = f"; failed too: {listing(others, 3)}" if others else ""
    raise C2SError(
        f"teacher {teacher.config.base_url}: {first.label}: {first.reason}{also}; all other answers are kept in "
        f"{teacher.cache.folder}, and running again asks for the rest only"
    )


def _shortage(study: str, got: int, n: int, refused: Counter[str], teacher: Teacher) -> str:
    reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(refused.items()))
    hint = (
        f"; raise max_tokens = {teacher.config.max_tokens}"
        if refused["cut off at max_tokens"]
        else ""
    )
    return f"study {study!r}: {got} of {n} paraphrases; answers that were not used: {reasons}{hint}"
