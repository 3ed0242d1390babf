"""Several cells in one answer: each a cell sentence, with the text of a layout between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2s.common.errors import UsageError
from c2s.constraints.trie import GeneSentence, GeneSentenceState


class CellSample:
    """Cells of a sample: sentences one after another, none with a gene twice, and what stands between them.

    Parameters
    ----------
    sentences
        What each cell may be. The `end_token` of each is the first token of what stands behind it; the last one's
        ends the answer.
    between : list of token sequences
        What is written between each cell and the next, as it is.

    Raises
    ------
    UsageError
        There are no cells, not one text between any two of them, or a text that does not begin with the end of the
        sentence before it.
    """

    def __init__(
        self, sentences: Sequence[GeneSentence], between: Sequence[Sequence[int]] = ()
    ) -> None:
        self.sentences = list(sentences)
        self.between = [list(map(int, tokens)) for tokens in between]
        if len(self.sentences) != len(self.between) + 1:
            raise UsageError(
                f"{len(self.sentences):,} cells with {len(self.between):,} texts between them; "
                "there is one between any two cells"
            )
        for cell, (sentence, tokens) in enumerate(zip(self.sentences, self.between, strict=False)):
            if tokens[:1] != [sentence.end_token]:
                raise UsageError(
                    f"the text behind cell {cell + 1} does not begin with the token that ends the cell"
                )

    @property
    def max_tokens(self) -> int:
        """An upper bound for the number of tokens of an answer."""
        # The token that ends a sentence is the first of the text behind it.
        cells = sum(sentence.max_tokens - 1 for sentence in self.sentences)
        return cells + sum(map(len, self.between)) + 1

    @property
    def usual_tokens(self) -> int:
        """Tokens of an answer whose genes are of average length."""
        cells = sum(sentence.usual_tokens for sentence in self.sentences)
        return cells + sum(map(len, self.between))

    def start(self) -> CellSampleState:
        """Return the state before the first gene of the first cell."""
        return CellSampleState(self)

    def text_behind(self, number: int, cell: GeneSentenceState) -> list[int]:
        """Return what is left to write between a complete cell and the next.

        The last gene of a cell may have ended by itself, or by the first token of the text behind it.
        """
        return self.between[number][1 if cell.ended_by_token else 0 :]


class CellSampleState:
    """Where a sample that is being written stands: the cells so far, and what is left of the text between two.

    Parameters
    ----------
    constraint
        What samples may be.
    cells
        All cells of a sample that is complete; by default none is begun.
    """

    def __init__(
        self, constraint: CellSample, cells: Sequence[GeneSentenceState] | None = None
    ) -> None:
        self.constraint = constraint
        self._cells = list(cells or [constraint.sentences[0].start()])
        self._text: list[int] = []

    @property
    def done(self) -> bool:
        """Whether all cells are complete."""
        return len(self._cells) == len(self.constraint.sentences) and self._cells[-1].done

    @property
    def progress(self) -> float:
        """Where the cell that is being written stands: 0 at its first gene, 1 at its last."""
        return self._cells[-1].progress

    @property
    def cells(self) -> list[list[int]]:
        """The genes of each cell so far, as items of the trie."""
        return [cell.genes for cell in self._cells]

    @property
    def open_cell(self) -> GeneSentenceState | None:
        """The cell that is being written; None where the text between two cells is, or the sample is complete."""
        return None if self._text or self.done else self._cells[-1]

    @property
    def number(self) -> int:
        """Which cell is being written, or was last; 0 is the first."""
        return len(self._cells) - 1

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, ascending."""
        if self._text:
            return np.array(self._text[:1], dtype=np.int64)
        return self._cells[-1].allowed()

    def advance(self, token: int) -> None:
        """Take the next token."""
        if self._text:
            del self._text[0]
        else:
            self._cells[-1].advance(token)
            if not self._cells[-1].done or self.done:
                return
            self._text = self.constraint.text_behind(self.number, self._cells[-1])
        if not self._text:
            self._cells.append(self.constraint.sentences[len(self._cells)].start())
