"""What a task is: which fields it needs, how it is asked, what its answer may be and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from c2s.cells.inverse import ParsedSentences, parse_sentences
from c2s.cells.vocabulary import GeneVocabulary
from c2s.tasks.prompts import TaskWording, Template
from c2s.tokens.tokenizer import Segment


@dataclass(frozen=True)
class Example:
    """One prompt with its answer, as segments that a `CellTokenizer` encodes.

    Attributes
    ----------
    task
        Id of the task.
    prompt, response
        English and cells; the response begins with a space.
    """

    task: str
    prompt: list[Segment]
    response: list[Segment]


@dataclass(frozen=True)
class Task:
    """A task of SPEC §4.1.

    Attributes
    ----------
    id, name
        Ours, and the paper's.
    conditions
        Columns of `obs` that the wording may use beside the cell, the answer left out.
    answer
        "label": one of a list of texts; "cell": a cell sentence.
    target
        The field that is the answer: a column of `obs`, or "cell_sentence".
    metric
        Name in `c2s.metrics` of what scores it (SPEC §4.1 names BERTScore for labels; a closed list of
        labels is scored exactly).
    """

    id: str
    name: str
    conditions: tuple[str, ...]
    answer: Literal["label", "cell"]
    target: str
    metric: str

    def ask(
        self,
        template: Template,
        values: Mapping[str, str | int],
        cell: np.ndarray | None,
        n_genes: int,
    ) -> list[Segment]:
        """Return the prompt.

        Parameters
        ----------
        template
            One of the task's wordings.
        values
            Texts of the conditions.
        cell
            Vocabulary columns in rank order, for tasks that are given a cell.
        n_genes
            What the wording calls the number of genes: those given, or those asked for.
        """
        fields: dict[str, str | int | np.ndarray] = {**values, "num_genes": n_genes}
        if cell is not None and self.answer == "label":
            fields["cell_sentence"] = cell
        return template.fill(fields)

    def example(
        self, wording: TaskWording, template: Template, values: Mapping[str, str], cell: np.ndarray
    ) -> Example:
        """Return the prompt with its true answer, for training.

        Parameters
        ----------
        wording, template
            The task's wording, and the prompt chosen from it.
        values
            Texts of the conditions, and of the label where that is the answer.
        cell
            The cell: vocabulary columns in rank order.
        """
        response = wording.response.fill({**values, "cell_sentence": cell, "num_genes": len(cell)})
        return Example(self.id, self.ask(template, values, cell, len(cell)), response)

    def parse_label(self, text: str, labels: Sequence[str]) -> str | None:
        """Return the label that an answer names, or None if it names none of them (SPEC §4.2).

        One full stop and control tokens at the end are dropped; case does not matter.
        """
        for token in ("<ctrl100>", "<eos>", "<|endoftext|>"):
            text = text.replace(token, "")
        answer = text.strip()
        by_case = {label.casefold(): label for label in labels}
        # The answer as it stands first: a label may itself end with a full stop.
        for candidate in (answer, answer.removesuffix(".").strip()):
            if candidate in labels:
                return candidate
            if candidate.casefold() in by_case:
                return by_case[candidate.casefold()]
        return None

    def parse_cells(self, texts: Sequence[str], vocabulary: GeneVocabulary) -> ParsedSentences:
        """Read generated sentences back into genes and ranks (SPEC §3)."""
        return parse_sentences(texts, vocabulary)
