"""Token ids of many examples at once, for the corpus engine: texts are looked up, genes gathered.

    assembler = Assembler(tokenizer)
    batch = assembler.batch([Parts(["Genes: ", 0, "\\nCell type:"], [" beta"], n_genes=200)], cells)
    tokens, offsets = batch.write(np.arange(len(batch)))

The ids are those of `CellTokenizer.encode` for the prompt and for the response, and so those that the tokenizer itself
makes of their texts. The Python here does a few dictionary look-ups an example; the rest is compiled. An example in
which a text and a cell cannot be tokenised apart (see `c2s.tokens.joins`) goes through `encode`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError
from c2s.tokens import assemble_kernels as kernels
from c2s.tokens.joins import char_code
from c2s.tokens.tokenizer import CellTokenizer, Segment

# When a batch starts with more than this in the pool, the pool is emptied: 16 MB of ids, some 20 MB of texts.
_MOST_IDS = 1 << 22
_MOST_TEXTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Parts:
    """One example: English (str), and cells as rows of a `RankedCells` (int).

    Attributes
    ----------
    prompt, response
        What is asked and what is answered. They are tokenised apart; where the prompt does not end in white space and
        the response begins with a space, that makes no difference.
    n_genes
        How many genes of each cell are taken; a cell with fewer gives all it has.
    """

    prompt: list[str | int]
    response: list[str | int]
    n_genes: int


class Assembler:
    """Makes the token ids of examples.

    Parameters
    ----------
    tokenizer
        Of the vocabulary that the cells are ranked in.

    Examples
    --------
    >>> import c2s
    >>> from c2s.tokens.tokenizer import train_text_tokenizer
    >>> cells = c2s.pp.cell_sentences(c2s.datasets.pancreas()[:3], top_k=4)
    >>> tokenizer = CellTokenizer(train_text_tokenizer(["Genes: "], 270), cells.vocabulary, "text")
    >>> batch = Assembler(tokenizer).batch([Parts(["Genes: ", 2], [" a cell"], n_genes=3)], cells)
    >>> tokens, offsets = batch.write(np.arange(1))
    >>> tokenizer.backend.decode(tokens)
    'Genes: REG1A CTRB2 PRSS2 a cell<|endoftext|>'
    """

    def __init__(self, tokenizer: CellTokenizer) -> None:
        self.tokenizer = tokenizer
        self._genes = _gene_arrays(tokenizer)
        self._table = tokenizer.joins.table
        if tokenizer.mode == "genes":  # gene tokens are found wherever they stand
            self._table = np.ones_like(self._table)
        self._all_spaced = bool(self._table[self._genes.last, ord(" ")].all())
        self._forget()

    def _forget(self) -> None:
        self._pool = _Pool()
        self._texts: dict[str, int] = {}
        # For a text before a cell: the text of the pool that stands for it (−1: none), and what of it has to be
        # tokenised with the cell's first gene (None: nothing; the gene takes the space before it).
        self._leads: dict[str, tuple[int, str | None]] = {}

    def batch(self, examples: Sequence[Parts], cells: RankedCells) -> TokenBatch:
        """Measure examples, for writing them in any order.

        Raises
        ------
        UsageError
            The cells are ranked in another vocabulary, or an example names a cell that is not there.
        """
        self._check(cells)
        if self._pool.n_ids > _MOST_IDS or len(self._texts) + len(self._leads) > _MOST_TEXTS:
            self._forget()
        steps, ends = array("q"), array("q")
        for example in examples:
            self._plan(example.prompt, cells, steps)
            ends.append(len(steps))
            self._plan(example.response, cells, steps)
            ends.append(len(steps))
        n_genes = np.fromiter((e.n_genes for e in examples), np.int64, count=len(examples))
        plan = _Plan(_int64(steps), _int64(ends), n_genes)
        _check_rows((-1 - plan.steps[plan.steps < 0]) >> 1, len(cells))
        lengths = np.empty((len(examples), 2), np.int64)
        safe = np.empty(len(examples), dtype=bool)
        kernels.measure(
            plan.steps, plan.ends, n_genes, cells.indptr, cells.genes, self._genes.n_tokens, self._genes.last,
            self._pool.lengths, self._pool.edges, self._table, self._all_spaced, lengths.reshape(-1), safe,
        )  # fmt: skip
        whole = {}
        for i in np.flatnonzero(~safe).tolist():
            prompt, response = (
                self._encode(p, examples[i].n_genes, cells) for p in _sides(examples[i])
            )
            whole[i] = np.concatenate([prompt, response])
            lengths[i] = len(prompt), len(response)
        return TokenBatch(
            self.tokenizer.eos_id, plan, cells, self._genes, self._pool, lengths, safe, whole
        )

    def _check(self, cells: RankedCells) -> None:
        known = self.tokenizer.vocabulary
        if cells.vocabulary is not known and cells.vocabulary.words != known.words:
            raise UsageError(
                f"the cells are ranked among {len(cells.vocabulary):,} genes, and the tokenizer was made for"
                f" {len(known):,} others; make a CellTokenizer for the cells' vocabulary"
            )

    def _plan(self, parts: Sequence[str | int], cells: RankedCells, steps: array[int]) -> None:
        """Append the steps of a prompt or a response (see `assemble_kernels`)."""
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            if part < 0:
                raise _no_such_cell(part, len(cells))
            lead = self._leads.get(text)
            before, tail = self._lead(text) if lead is None else lead
            if before >= 0:
                steps.append(before)
            first = None if tail is None else self._first_word(cells, part)
            if first is not None:
                steps.append(self._text(f"{tail}{first}"))
            steps.append(-1 - 2 * part - (first is not None))
            text = ""
        if text:
            steps.append(self._text(text))

    def _text(self, text: str) -> int:
        """Return the number in the pool of a text that is tokenised alone."""
        number = self._texts.get(text)
        if number is None:
            number = self._texts[text] = self._pool.add(text, self.tokenizer.encode_english(text))
        return number

    def _lead(self, text: str) -> tuple[int, str | None]:
        """Return what stands for a text before a cell, and remember it (see `_forget`)."""
        lead: tuple[int, str | None]
        if self.tokenizer.mode == "genes":
            ids = self.tokenizer.encode_before_gene(text)
            lead = (self._pool.add(text, ids) if len(ids) else -1, None)
        else:
            alone, tail = self._cut_lead(text)
            lead = (self._text(alone) if alone else -1, tail)
        self._leads[text] = lead
        return lead

    def _cut_lead(self, text: str) -> tuple[str, str | None]:
        """Cut a text before a cell into what is tokenised alone and the tail (see `_forget`)."""
        joins = self.tokenizer.joins
        if text == " " or (text.endswith(" ") and joins.safe(text[:-1], " ")):
            return text[:-1], None
        *_, tail = joins.split(text) or [""]
        return text[: len(text) - len(tail)], tail

    def _first_word(self, cells: RankedCells, row: int) -> str | None:
        """Return the first gene of a cell, or None where the cell has none or is not there."""
        if not 0 <= row < len(cells) or cells.indptr[row] == cells.indptr[row + 1]:
            return None
        return cells.vocabulary.words[cells.genes[cells.indptr[row]]]

    def _encode(self, parts: Sequence[str | int], n_genes: int, cells: RankedCells) -> np.ndarray:
        segments: list[Segment] = [
            part if isinstance(part, str) else cells.to_columns(part)[: max(n_genes, 0)]
            for part in parts
        ]
        return self.tokenizer.encode(segments)

    def most_genes(
        self,
        rows: np.ndarray,
        indptr: np.ndarray,
        wanted: np.ndarray,
        budget: np.ndarray,
        cells: RankedCells,
    ) -> np.ndarray:
        """Return how many genes of the cells of each sample fit into a budget of tokens.

        Genes are counted as they are behind a space. A first gene that is not behind a space (`"Cell 1:\\nINS"`) may
        have another number of tokens, and so may all genes of a tokenizer whose tokens span words; the sample as a
        whole is to be measured with `batch`.

        Parameters
        ----------
        rows : int array, shape (indptr[-1],)
            Cells; those of sample `i` are `rows[indptr[i]:indptr[i + 1]]`.
        indptr : int array, shape (n_samples + 1,)
        wanted : int array, shape (n_samples,)
            The most genes that are wanted of each cell.
        budget : int array, shape (n_samples,)
            The most tokens that the genes of all cells of a sample may have together.
        cells
            The cells that `rows` counts.

        Returns
        -------
        numpy.ndarray
            For each sample the largest number up to `wanted` such that the first so many genes of all its cells are
            within the budget, a cell with fewer genes giving all it has; 0 if not even one each is. int64,
            shape (n_samples,).

        Raises
        ------
        UsageError
            The cells are ranked in another vocabulary, a row is not there, or the arrays do not fit together.
        """
        self._check(cells)
        rows, indptr, wanted, budget = (
            np.ascontiguousarray(a, dtype=np.int64) for a in (rows, indptr, wanted, budget)
        )
        _check_rows(rows, len(cells))
        n = len(wanted)
        fit = (
            len(indptr) == n + 1 and len(budget) == n and indptr[0] == 0 and indptr[-1] == len(rows)
        )
        if not fit or (np.diff(indptr) < 0).any():
            raise UsageError(
                f"{n:,} samples with {len(budget):,} budgets and {len(rows):,} cells do not fit an indptr of"
                f" shape {indptr.shape}; it counts the cells of each sample up from 0"
            )
        out = np.empty(n, np.int64)
        kernels.most_genes(
            rows, indptr, wanted, budget, cells.indptr, cells.genes, self._genes.n_tokens, out
        )
        return np.maximum(out, 0)

    def gene_tokens(
        self, rows: np.ndarray, indptr: np.ndarray, n_genes: np.ndarray, cells: RankedCells
    ) -> np.ndarray:
        """Return the tokens of the genes of each sample, counted as they are behind a space.

        Parameters
        ----------
        rows, indptr, cells
            As `most_genes`.
        n_genes : int array, shape (n_samples,)
            Genes of each cell.

        Returns
        -------
        numpy.ndarray
            int64, shape (n_samples,).
        """
        self._check(cells)
        rows, indptr, n_genes = (np.ascontiguousarray(a, np.int64) for a in (rows, indptr, n_genes))
        _check_rows(rows, len(cells))
        out = np.empty(len(n_genes), np.int64)
        kernels.count_gene_tokens(
            rows, indptr, n_genes, cells.indptr, cells.genes, self._genes.n_tokens, out
        )
        return out


class TokenBatch:
    """Examples that are measured and can be written.

    Attributes
    ----------
    lengths : int64 array, shape (n_examples,)
        Tokens of each example: prompt, response and end-of-text.
    prompt_lengths : int64 array, shape (n_examples,)
        Tokens of each prompt.
    """

    def __init__(
        self,
        eos_id: int,
        plan: _Plan,
        cells: RankedCells,
        genes: _GeneArrays,
        pool: _Pool,
        lengths: np.ndarray,
        safe: np.ndarray,
        whole: dict[int, np.ndarray],
    ) -> None:
        self.lengths = lengths.sum(axis=1) + 1
        self.prompt_lengths = lengths[:, 0].copy()
        self._eos_id, self._plan, self._cells, self._genes = eos_id, plan, cells, genes
        self._texts = pool.starts, pool.lengths, pool.ids
        self._safe, self._whole = safe, whole

    def __len__(self) -> int:
        return len(self.lengths)

    def write(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of examples one after the other, each closed by the end-of-text id.

        Parameters
        ----------
        order : int array, shape (n_written,)
            Which examples, in which order; one may be left out or come twice.

        Returns
        -------
        tokens : int32 array, shape (offsets[-1],)
        offsets : int64 array, shape (n_written + 1,)
            The example `order[i]` is `tokens[offsets[i]:offsets[i + 1]]`.
        """
        order = np.arange(len(self))[np.asarray(order, dtype=np.int64)]
        offsets = np.concatenate([[0], np.cumsum(self.lengths[order])])
        tokens = np.empty(offsets[-1], np.int32)
        plan, cells, genes = self._plan, self._cells, self._genes
        kernels.write(
            order, plan.steps, plan.ends, plan.n_genes, cells.indptr, cells.genes, genes.n_tokens, genes.starts,
            genes.ids, genes.padded, *self._texts, self._eos_id, self._safe, offsets, tokens,
        )  # fmt: skip
        for i in np.flatnonzero(~self._safe[order]):
            tokens[offsets[i] : offsets[i + 1] - 1] = self._whole[int(order[i])]
            tokens[offsets[i + 1] - 1] = self._eos_id
        return tokens, offsets


@dataclass(frozen=True)
class _Plan:
    """The steps of a batch, for the kernels."""

    steps: np.ndarray
    ends: np.ndarray
    n_genes: np.ndarray


@dataclass(frozen=True)
class _GeneArrays:
    """The gene table of a tokenizer, for the kernels."""

    starts: np.ndarray
    ids: np.ndarray
    n_tokens: np.ndarray
    padded: np.ndarray
    last: np.ndarray


def _gene_arrays(tokenizer: CellTokenizer) -> _GeneArrays:
    indptr, ids = tokenizer.gene_tokens.indptr, tokenizer.gene_tokens.ids
    n_tokens = np.diff(indptr)
    if len(n_tokens) and n_tokens.max() > np.iinfo(np.uint16).max:
        raise UsageError(f"a gene of {n_tokens.max():,} tokens is not possible")
    padded = np.zeros((len(n_tokens), kernels.PADDED), np.int32)
    for j in range(kernels.PADDED):
        longer = np.flatnonzero(n_tokens > j)
        padded[longer, j] = ids[indptr[longer] + j]
    last = np.array([char_code(word[-1]) for word in tokenizer.vocabulary.words], dtype=np.uint8)
    return _GeneArrays(indptr[:-1], ids, n_tokens.astype(np.uint16), padded, last)


class _Pool:
    """Token ids of texts in one array that grows; what is in it never moves to another number."""

    def __init__(self) -> None:
        self.n_texts = self.n_ids = 0
        self.ids = np.empty(1 << 12, np.int32)
        self.starts, self.lengths = np.empty(1 << 8, np.int64), np.empty(1 << 8, np.int64)
        self.edges = np.empty((1 << 8, 2), np.uint8)

    def add(self, text: str, ids: np.ndarray) -> int:
        """Add the ids of a text that is not empty, and return its number."""
        number, start, end = self.n_texts, self.n_ids, self.n_ids + len(ids)
        self.ids = _with_room(self.ids, end)
        if number == len(self.starts):
            self.starts, self.lengths, self.edges = (
                _with_room(a, number + 1) for a in (self.starts, self.lengths, self.edges)
            )
        self.ids[start:end] = ids
        self.starts[number], self.lengths[number] = start, len(ids)
        self.edges[number] = char_code(text[0]), char_code(text[-1])
        self.n_texts, self.n_ids = number + 1, end
        return number


def _with_room(values: np.ndarray, n: int) -> np.ndarray:
    """Return the array if it holds `n` values, else a longer copy."""
    if n <= len(values):
        return values
    longer = np.empty((max(n, 2 * len(values)), *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer


def _sides(example: Parts) -> tuple[list[str | int], list[str | int]]:
    return example.prompt, example.response


def _int64(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)


def _check_rows(rows: np.ndarray, n_cells: int) -> None:
    """Refuse rows that the kernels, which check no bounds, would read past the end."""
    wrong = rows[(rows < 0) | (rows >= n_cells)]
    if len(wrong):
        raise _no_such_cell(wrong[0], n_cells)


def _no_such_cell(row: int, n_cells: int) -> UsageError:
    return UsageError(f"there is no cell {row}; there are {n_cells:,} cells, counted from 0")
