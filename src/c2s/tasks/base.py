"""What a task is: which fields it needs, how it is asked, what its answer may be and how it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np

from c2s.cells.inverse import ParsedSentences, parse_sentences
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.tasks.prompts import TaskWording, without_control_tokens
from c2s.tasks.template import Template, places
from c2s.tokens.tokenizer import Segment

#: What stands for a cell or a list of genes: an array of columns, or a row number in the corpus engine.
T = TypeVar("T")

#: What a sample is made of: one cell, several cells of one donor and tissue, or the genes of a set.
Kind = Literal["single", "multi", "gene_set"]

#: What an answer is: one of a list of texts; a label for each cell; free text; a cell sentence; several of
#: them; genes in any order.
Answer = Literal["label", "labels", "text", "cell", "cells", "genes"]

#: The place of the cells or genes in prompts and responses.
_PLACES: dict[Kind, str] = {"single": "cell_sentence", "multi": "cells", "gene_set": "genes"}


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
    kind
        What a sample of it is made of; see `Kind`.
    conditions
        Fields that the wording may use beside the cells or genes, the answer left out: columns of `obs`,
        "cell_types" (the cell type of each cell), "abstract" (of the study) or "gene_set" (its name).
    answer
        Kind of answer; see `Answer`.
    target
        The field that is the answer: one of those that may be conditions, or the place of cells or genes.
    metric
        What scores it, in `c2s.metrics` where it is there (SPEC §4.1 names BERTScore for labels; a closed
        list of labels is scored exactly).
    """

    id: str
    name: str
    kind: Kind
    conditions: tuple[str, ...]
    answer: Answer
    target: str
    metric: str

    @property
    def generates(self) -> bool:
        """Whether the answer consists of genes, so that the prompt shows none."""
        return self.answer in ("cell", "cells", "genes")

    @property
    def needs(self) -> tuple[str, ...]:
        """The texts that each cell (or gene set) must have for a sample of this task, in no special order."""
        texts = self.conditions if self.generates else (*self.conditions, self.target)
        return tuple("cell_type" if name == "cell_types" else name for name in texts)

    def parts(
        self, wording: TaskWording, template: int, values: Mapping[str, object], cells: Sequence[T]
    ) -> tuple[list[str | T], list[str | T]]:
        """Return prompt and response: English, merged where it touches, with the cells in their places.

        Parameters
        ----------
        wording, template
            The task's wording, and which of its prompts.
        values
            What the wording says in words: "num_genes", "num_cells" for several cells, the texts of
            `conditions`, and that of the target where it is a text. "cell_types" is a list, a text a cell.
        cells
            Any objects that are no `str`, one for each cell; for a gene set one, its genes.

        Raises
        ------
        UsageError
            The wording needs a text that is missing, or the number of cells is not what it must be.
        """
        return self._parts(wording, wording.prompts[template], values, cells)

    def ask(
        self,
        template: Template,
        values: Mapping[str, object],
        cells: np.ndarray | Sequence[np.ndarray] | None,
        n_genes: int,
        wording: TaskWording | None = None,
    ) -> list[Segment]:
        """Return the prompt.

        Parameters
        ----------
        template
            One of the task's wordings.
        values
            Texts of the conditions; where several cells are asked for, also "num_cells".
        cells
            Vocabulary columns in rank order: one cell, a list of them, or the genes of a set. None where
            the task is given none.
        n_genes
            What the wording calls the number of genes: those given, or those asked for, of each cell.
        wording
            Says how several cells are written; tasks of one cell or a gene set need none.

        Raises
        ------
        UsageError
            A text is missing, or the number of cells is not what it must be.
        """
        fields = {**values, "num_genes": n_genes}
        shown = None if cells is None or self.generates else self._as_list(cells)
        if shown is not None and self.kind == "multi":
            fields["num_cells"] = len(shown)
        return template.place(fields, self._pieces(wording, fields, shown))

    def example(
        self,
        wording: TaskWording,
        template: Template,
        values: Mapping[str, object],
        cells: np.ndarray | Sequence[np.ndarray],
    ) -> Example:
        """Return the prompt with its true answer, for training.

        Parameters
        ----------
        wording, template
            The task's wording, and the prompt chosen from it.
        values
            Texts of the conditions, and of the target where that is a text.
        cells
            Vocabulary columns in rank order: a cell, a list of cells of equal length, or the genes of a set.

        Raises
        ------
        UsageError
            A text is missing, or the cells are not as many or as long as they must be.
        """
        cells = self._as_list(cells)
        lengths = {len(cell) for cell in cells}
        if len(lengths) > 1:
            raise UsageError(
                f"task {self.id!r}: found cells of {min(lengths):,} to {max(lengths):,} genes, expected one "
                "number for all cells of a sample"
            )
        fields = {**values, "num_genes": max(lengths, default=0)}
        if self.kind == "multi":
            fields["num_cells"] = len(cells)
        return Example(self.id, *self._parts(wording, template, fields, cells))

    def check_wording(self, wording: TaskWording, source: str) -> None:
        """Refuse wording that names what the task does not have, gives the answer away or hides the cells.

        Parameters
        ----------
        wording
            Of this task, in any pack.
        source
            Where it is from, for the message.

        Raises
        ------
        InputError
            A prompt or the response has a place that it must not have, or lacks one that it needs.
        """
        place = _PLACES[self.kind]
        numbers = {"num_genes", "num_cells"} if self.kind == "multi" else {"num_genes"}
        given = set() if self.generates else {place}
        allowed = {*self.conditions, *numbers, *given}
        for template in wording.prompts:
            for wrong in sorted(template.fields - allowed):
                why = "it is the answer" if wrong == self.target else f"it has {places(allowed)}"
                raise InputError(
                    f"{source}: the prompt {template.text[:60]!r} must not name {{{wrong}}} in task "
                    f"{self.id!r}: {why}"
                )
            if not given <= template.fields:
                raise InputError(
                    f"{source}: the prompt {template.text[:60]!r} of task {self.id!r} lacks {{{place}}}"
                )
        fields = [field for _, field in wording.response.parts if field]
        if fields != [self.target]:
            raise InputError(
                f"{source}: the response {wording.response.text!r} of task {self.id!r} must have the place "
                f"{{{self.target}}} once and no other"
            )

    def parse_label(self, text: str, labels: Sequence[str]) -> str | None:
        """Return the label that an answer names, or None if it names none of them (SPEC §4.2).

        One full stop and control tokens at the end are dropped; case does not matter.
        """
        answer = without_control_tokens(text)
        by_case = {label.casefold(): label for label in labels}
        # The answer as it stands first: a label may itself end with a full stop.
        for candidate in (answer, answer.removesuffix(".").strip()):
            if candidate in labels:
                return candidate
            if candidate.casefold() in by_case:
                return by_case[candidate.casefold()]
        return None

    def parse_labels(
        self, text: str, n_cells: int, wording: TaskWording, labels: Sequence[str] | None = None
    ) -> list[str | None]:
        """Return the label that an answer gives each of `n_cells` cells, None where it gives none.

        Parameters
        ----------
        text
            The answer.
        n_cells
            Cells that were asked about; entries beyond are dropped.
        wording
            That of the prompt; its layout tells where a label begins.
        labels
            Where given, each label is read as `parse_label` does, and is None if it is none of them.
        """
        found = wording.labels.read(wording.bare(text), n_cells)
        if labels is None:
            return found
        return [None if label is None else self.parse_label(label, labels) for label in found]

    def parse_cells(self, texts: Sequence[str], vocabulary: GeneVocabulary) -> ParsedSentences:
        """Read generated sentences back into genes and ranks (SPEC §3)."""
        return parse_sentences(texts, vocabulary)

    def parse_sample(
        self, text: str, n_cells: int, vocabulary: GeneVocabulary, wording: TaskWording
    ) -> ParsedSentences:
        """Read an answer of several cells back into the genes and ranks of `n_cells` cells (SPEC §3).

        A cell that the answer does not have is an empty sentence, as the overlap of samples counts it (SPEC
        §4.4). Parameters are those of `parse_labels`.
        """
        sentences = wording.cells.read(wording.bare(text), n_cells)
        return parse_sentences([sentence or "" for sentence in sentences], vocabulary)

    def parse_genes(self, text: str) -> list[str]:
        """Return the different genes that an answer lists, in upper case, in the order of first mention.

        Genes are separated by white space, commas or semicolons; a lower-case "and" between them and a full
        stop behind one are dropped.
        """
        words = re.split(r"[\s,;]+", without_control_tokens(text))
        genes = (word.rstrip(".").upper() for word in words if word != "and")
        return list(dict.fromkeys(gene for gene in genes if gene))

    def _parts(
        self,
        wording: TaskWording,
        template: Template,
        values: Mapping[str, object],
        cells: Sequence[T],
    ) -> tuple[list[str | T], list[str | T]]:
        pieces = self._pieces(wording, values, cells)
        response = wording.response.place(values, pieces)
        if self.generates:
            del pieces[_PLACES[self.kind]]
        return template.place(values, pieces), response

    def _pieces(
        self, wording: TaskWording | None, values: Mapping[str, object], cells: Sequence[T] | None
    ) -> dict[str, Sequence[str | T]]:
        """Return what belongs in the places of the cells and of their types."""
        pieces: dict[str, Sequence[str | T]] = {}
        if self.kind != "multi":
            if cells is not None:
                if len(cells) != 1:
                    raise UsageError(
                        f"task {self.id!r} takes one cell or gene set, found {len(cells):,}"
                    )
                pieces[_PLACES[self.kind]] = cells
            return pieces
        if wording is None:
            raise UsageError(
                f"task {self.id!r} has several cells; give the wording that lays them out"
            )
        if cells is not None:
            pieces["cells"] = wording.cells.write(cells)
        labels = values.get("cell_types") if "cell_type" in self.needs else None
        if labels is not None:
            labels = cast("Sequence[str]", labels)
            if cells is not None and len(labels) != len(cells):
                raise UsageError(
                    f"task {self.id!r}: found {len(labels):,} cell types for {len(cells):,} cells"
                )
            pieces["cell_types"] = wording.labels.write(labels)
        return pieces

    def _as_list(self, cells: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
        if not isinstance(cells, np.ndarray):
            return list(cells)
        if self.kind == "multi":
            raise UsageError(f"task {self.id!r} takes a list of cells, found one array")
        return [cells]
