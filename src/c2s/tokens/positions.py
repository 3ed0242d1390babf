"""Which tokens of a prompt are those of its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from c2s.tokens.tokenizer import CellTokenizer

#: Genes in a row that are taken for a cell sentence; fewer may be an English word that is written like a gene.
_FEWEST_GENES = 3

#: How tokenizers write white space: byte-level ones a space and a line break, SentencePiece a space.
_WHITE_SPACE = str.maketrans({"Ġ": " ", "Ċ": "\n", "▁": " "})

#: What may stand around a gene of a sentence's ends, without white space between.
_AROUND = ".,;:!?()[]{}\"'`"


class CellFinder:
    """Finds cell sentences in token ids, where it is not known any more what they were made from.

    A cell sentence is a run of at least three genes. In "genes" mode they are tokens of their own; in "text" mode the
    words of the vocabulary are looked for in the characters that the tokens stand for, with one space between two
    genes. Names in upper case that are genes only by chance stand alone, so they are not found. A list of genes that no
    cell has, as of a gene set, is found too. In "genes" mode tokens of genes swallow white space, so that cells with
    nothing else between them are one sentence.

    Parameters
    ----------
    tokenizer
        Of the model; in "text" mode a byte-level or SentencePiece tokenizer, as those of GPT-NeoX, Gemma and Llama.
    """

    def __init__(self, tokenizer: CellTokenizer) -> None:
        self.tokenizer = tokenizer
        if tokenizer.mode == "genes":
            self._is_gene = np.zeros(len(tokenizer.backend), dtype=bool)
            self._is_gene[tokenizer.gene_tokens.ids] = True
        else:
            pieces = tokenizer.backend.convert_ids_to_tokens(list(range(len(tokenizer.backend))))
            # One character for a byte, whatever it is: genes are ASCII, and only their characters matter.
            self._texts = [_text(piece or "") for piece in pieces]
            self._words = frozenset(tokenizer.vocabulary.words)

    def sentences(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the cell sentences of a prompt.

        Parameters
        ----------
        ids : int array, shape (n_tokens,)

        Returns
        -------
        list of int64 array, shape (n_genes, 2)
            Of each sentence, in order, the first token of each gene and the one behind its last. A token of a gene and
            something else is the gene's; the space in front of a gene is part of it.
        """
        spans = self._gene_tokens(ids) if self.tokenizer.mode == "genes" else self._gene_words(ids)
        return [s for s in spans if len(s) >= _FEWEST_GENES]

    def _gene_tokens(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Yield runs of gene tokens."""
        is_gene = np.concatenate([[False], self._is_gene[np.asarray(ids)], [False]])
        edges = np.flatnonzero(is_gene[1:] != is_gene[:-1]).reshape(-1, 2)
        for start, stop in edges:
            at = np.arange(start, stop)
            yield np.stack([at, at + 1], axis=1)

    def _gene_words(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Yield runs of words that are genes, as tokens."""
        texts = [self._texts[i] for i in np.asarray(ids).tolist()]
        ends = np.cumsum([len(t) for t in texts])
        starts = ends - [len(t) for t in texts]
        for run in _runs("".join(texts), self._words):
            characters = np.array(run, dtype=np.int64)
            first = np.searchsorted(ends, characters[:, 0], side="right")
            last = np.searchsorted(starts, characters[:, 1], side="left")
            # Between two genes a token may be of both; it is the second one's, and each token one gene's.
            last[:-1] = np.minimum(last[:-1], first[1:])
            yield np.stack([first, last], axis=1)


def _text(piece: str) -> str:
    """Return what a token stands for; a byte that SentencePiece has no token for is written as its number."""
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return chr(int(piece[3:5], 16))
    return piece.translate(_WHITE_SPACE)


def _runs(text: str, words: frozenset[str]) -> Iterator[list[tuple[int, int]]]:
    """Yield runs of genes with one space between them, each gene as where it begins, with its space, and ends."""
    run: list[tuple[int, int]] = []
    closed = True  # whether nothing can be added to the run
    for found in re.finditer(r"\S+", text):
        word, start = found[0], found.start()
        bare = word if word in words else word.lstrip(_AROUND)
        start += len(word) - len(bare)
        gene = bare if bare in words else bare.rstrip(_AROUND)
        apart = closed or bare != word or run[-1][1] != start - 1 or text[start - 1] != " "
        if apart or gene not in words:
            if run:
                yield run
            run = []
        if gene in words:
            spaced = start > 0 and text[start - 1] == " "
            run.append((start - spaced, start + len(gene)))
        closed = gene not in words or gene != bare
    if run:
        yield run
