"""From prompts that hold English and cells to token ids, by gathering a per-gene token table.

A prompt is a sequence of segments: pieces of English (`str`) and cells (arrays of vocabulary columns).
English goes through the tokenizer, cut where that is safe (see `c2s.tokens.joins`), and what was tokenised once is
remembered; a gene's token ids are looked up. Two modes:

- "text": genes are written with the backbone's own tokenizer, three to four tokens each, as in the paper.
- "genes": one token a gene, added to a tokenizer that can still write English.

In either mode the ids equal what the Hugging Face tokenizer itself makes of the text of the prompt. In
"genes" mode an upper-case English word that is exactly a gene symbol is therefore read as the gene.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.tokens.joins import Joins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: How genes become tokens; see the module.
TokenMode = Literal["text", "genes"]

#: Part of a prompt: English, or the columns of a cell in rank order.
Segment = str | np.ndarray


# Pieces of English that a tokenizer remembers, and their length: at most some 20 MB.
_MOST_PIECES = 100_000
_LONGEST_PIECE = 48


class CellTokenizer:
    """Turns segments into token ids and back.

    Parameters
    ----------
    backend
        A fast Hugging Face tokenizer with an end-of-text token.
    vocabulary
        The genes the model knows; cells in prompts hold its columns.
    mode
        See the module.

    Attributes
    ----------
    joins
        Where a text may be cut without changing its tokens.
    gene_tokens
        The token ids of each gene of the vocabulary, behind a space.

    Raises
    ------
    InputError
        The tokenizer has no end-of-text token, or in "genes" mode lacks genes.
    """

    def __init__(
        self, backend: PreTrainedTokenizerFast, vocabulary: GeneVocabulary, mode: TokenMode
    ) -> None:
        if mode not in ("text", "genes"):
            raise UsageError(f"token mode {mode!r} is unknown; use 'text' or 'genes'")
        if backend.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-text token, and answers could not end")
        self.backend = backend
        self.vocabulary = vocabulary
        self.mode = mode
        self.eos_id: int = int(backend.eos_token_id)
        self.pad_id: int = int(
            backend.eos_token_id if backend.pad_token_id is None else backend.pad_token_id
        )
        self.joins = Joins.of(backend)
        self.gene_tokens = self._gene_table()
        # Whether a gene may be followed by a space and another one without looking at both together.
        self._spaced = np.array([self.joins.safe(w, " ") for w in vocabulary.words], dtype=bool)
        self._pieces: dict[str, bytes] = {}

    def _gene_table(self) -> GeneTokens:
        """Return the token ids of each gene behind a space."""
        words = self.vocabulary.words
        if self.mode == "text":
            # The tokenizer below the Hugging Face one: in half the time, and vocabularies are large.
            encode = self.backend.backend_tokenizer.encode_batch_fast
            spaced = encode([" " + w for w in words], add_special_tokens=False)
            return GeneTokens.from_rows([encoding.ids for encoding in spaced])
        ids = self.backend.convert_tokens_to_ids(list(words))
        unknown = self.backend.unk_token_id
        missing = [w for w, i in zip(words, ids, strict=True) if i is None or i == unknown]
        if missing:
            raise InputError(
                f"the tokenizer lacks {len(missing):,} genes of the vocabulary ({listing(missing, 3)})"
            )
        return GeneTokens(np.arange(len(ids) + 1), np.asarray(ids, dtype=np.int32))

    def gene_pieces(self, column: int) -> list[int]:
        """Return the token ids of a gene behind a space."""
        return self.gene_tokens.row(column).tolist()

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return the token ids of a prompt or a response, without special tokens. int32, shape (n_tokens,)."""
        ids = self._with_gene_tokens if self.mode == "genes" else self._with_gene_texts
        return np.concatenate([np.empty(0, np.int32), *ids(segments)])

    def encode_with_genes(self, segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of a prompt, and which of its genes each token is part of.

        The ids are those of `encode`, by another way: the whole text goes through the tokenizer, which says of each
        token where it stands. The space in front of a gene is part of it, and so is a token of its end and English.

        Returns
        -------
        ids : int32 array, shape (n_tokens,)
        gene : int64 array, shape (n_tokens,)
            0 for the first gene of the prompt, 1 for the second, …; −1 for English.
        """
        words = self.vocabulary.words
        text, starts, ends = "", [], []  # type: tuple[str, list[int], list[int]]
        for segment in segments:
            if isinstance(segment, str):
                text += segment
                continue
            for number, column in enumerate(segment):
                text += " " if number else ""
                starts.append(len(text) - text.endswith(" "))
                text += words[column]
                ends.append(len(text))
        encoded = self.backend(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        # The last gene that begins before a token ends: the token is part of it unless it begins behind it.
        gene = np.searchsorted(np.array(starts, dtype=np.int64), spans[:, 1], side="left") - 1
        behind = spans[:, 0] >= np.array([*ends, -1], dtype=np.int64)[gene]
        gene[behind] = -1
        return np.array(encoded["input_ids"], dtype=np.int32), gene

    def encode_english(self, text: str) -> np.ndarray:
        """Return the token ids of a text that stands alone. int32, shape (n_tokens,).

        It is cut in front of white space where that is safe; pieces that were seen before are looked up.
        """
        pieces = self.joins.split(text)
        found = {piece: self._pieces.get(piece) for piece in pieces}
        missing = [piece for piece, ids in found.items() if ids is None]
        if missing:
            encoded = self.backend(missing, add_special_tokens=False)["input_ids"]
            made = [np.array(ids, dtype=np.int32).tobytes() for ids in encoded]
            found.update(zip(missing, made, strict=True))
            self._remember(missing, made)
        return np.frombuffer(b"".join([found[piece] or b"" for piece in pieces]), dtype=np.int32)

    def _remember(self, pieces: list[str], ids: list[bytes]) -> None:
        if len(self._pieces) + len(pieces) > _MOST_PIECES:
            self._pieces = {}
        # A tokenizer that cannot be cut gives whole prompts as pieces, which seldom come again.
        short = zip(pieces[:_MOST_PIECES], ids, strict=False)
        self._pieces.update((piece, i) for piece, i in short if len(piece) <= _LONGEST_PIECE)

    def encode_before_gene(self, text: str) -> np.ndarray:
        """Return the token ids of English before a gene token ("genes" mode). int32, shape (n_tokens,).

        A gene token swallows the white space before it, except for what is an added token itself, as line breaks are
        to Gemma. What the tokenizer makes of the text and a gene tells.
        """
        ids = self.encode_english(text + self.vocabulary.words[0])
        if ids[-1] == self.gene_tokens.ids[0]:
            return ids[:-1]
        return self.encode_english(text.rstrip())  # as if the gene did not touch the word before it

    def _with_gene_tokens(self, segments: Iterable[Segment]) -> Iterator[np.ndarray]:
        """Yield the token ids of English and cells in turn ("genes" mode)."""
        english = ""
        for segment in segments:
            if isinstance(segment, str):
                english += segment
            elif len(segment):
                yield self.encode_before_gene(english)
                yield self.gene_tokens.gather(segment)
                english = ""
        yield self.encode_english(english)

    def _with_gene_texts(self, segments: Iterable[Segment]) -> Iterator[np.ndarray]:
        """Yield the token ids of English and cells in turn ("text" mode)."""
        for part in self._parts_of_text(segments):
            yield (
                self.encode_english(part)
                if isinstance(part, str)
                else self.gene_tokens.gather(part)
            )

    def _parts_of_text(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Yield English and cells with safe boundaries between them, each gene of a cell behind a space.

        A cell's first gene takes the space that ends the English before it; where that is not safe, or there is no
        space, the gene is written into the English. So is a last gene that cannot be cut off from what follows, and
        a whole cell with genes that cannot be cut off from one another.
        """
        words = self.vocabulary.words
        cell = np.empty(0, np.int32)  # not yielded yet,
        english = ""  # and what stands behind it
        for segment in segments:
            if isinstance(segment, str):
                english += segment
                continue
            if not self._spaced[segment[:-1]].all():
                english += self.text([segment])
                continue
            if len(segment) and self._ends_in_a_free_space(english, cell):
                english = english[:-1]
            elif len(segment):
                english += words[segment[0]]
                segment = segment[1:]
            if len(segment):
                yield from self._cell_and_english(cell, english)
                cell, english = segment, ""
        yield from self._cell_and_english(cell, english)

    def _ends_in_a_free_space(self, english: str, cell: np.ndarray) -> bool:
        """Say whether the text of a cell and of English behind it ends in a space that can be cut off."""
        if english == " ":
            return not len(cell) or bool(self._spaced[cell[-1]])
        return english.endswith(" ") and self.joins.safe(english[:-1], " ")

    def _cell_and_english(self, cell: np.ndarray, english: str) -> Iterator[Segment]:
        """Yield a cell and the English behind it, the last gene with the English where it cannot be cut off."""
        if len(cell) and english:
            last = self.vocabulary.words[cell[-1]]
            if not self.joins.safe(last, english):
                cell, english = cell[:-1], f" {last}{english}"
        if len(cell):
            yield cell
        if english:
            yield english

    def text(self, segments: Sequence[Segment]) -> str:
        """Return a prompt or response as the text a person would read."""
        words = self.vocabulary.words
        return "".join(s if isinstance(s, str) else " ".join(words[g] for g in s) for s in segments)

    def decode(self, ids: Iterable[int]) -> str:
        """Return token ids as text, genes separated by spaces, without special tokens."""
        if self.mode == "text":
            return str(self.backend.decode(list(ids), skip_special_tokens=True))
        ids = [int(token) for token in ids]
        text, english = "", []  # type: tuple[str, list[int]]
        for token, column in zip([*ids, -1], [*self._genes_among(ids), None], strict=True):
            if token >= 0 and column is None:
                english.append(token)
                continue
            text += self._english(english)
            english = []
            if column is not None:
                space = " " if text and not text[-1].isspace() else ""
                text += space + self.vocabulary.words[column]
        return text

    def _english(self, ids: list[int]) -> str:
        return str(self.backend.decode(ids, skip_special_tokens=True)) if ids else ""

    def _genes_among(self, ids: Sequence[int]) -> list[int | None]:
        """Return the column of each gene token, None for English.

        A token that a gene shares with the text tokenizer (see `add_gene_tokens`) is part of an English word where
        English goes on behind it with a letter or digit; so they are looked at from the last to the first.
        """
        columns, shared = self.gene_columns(), self._shared_tokens()
        found: list[int | None] = []
        goes_on = False  # whether what follows is English that begins within a word
        for token in reversed(ids):
            column = None if token in shared and goes_on else columns.get(token)
            found.append(column)
            goes_on = column is None and self._english([token])[:1].isalnum()
        return found[::-1]

    def _shared_tokens(self) -> frozenset[int]:
        if not hasattr(self, "_shared"):
            pieces = self.backend.backend_tokenizer.get_vocab(with_added_tokens=False)
            words = self.vocabulary.words
            self._shared = frozenset(pieces[word] for word in words if word in pieces)
        return self._shared

    def gene_columns(self) -> dict[int, int]:
        """Return the vocabulary column of each gene token ("genes" mode)."""
        if not hasattr(self, "_gene_columns"):
            self._gene_columns = {int(t): i for i, t in enumerate(self.gene_tokens.ids)}
        return self._gene_columns

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer as `save_pretrained` does."""
        save_tokenizer(self.backend, folder)


class GeneTokens:
    """Token ids per gene, a ragged array.

    Attributes
    ----------
    indptr : int64 array, shape (n_genes + 1,)
        Gene `g` is `ids[indptr[g]:indptr[g + 1]]`.
    ids : int32 array, shape (n_tokens,)
        The token ids of all genes.
    """

    def __init__(self, indptr: np.ndarray, ids: np.ndarray) -> None:
        self.indptr, self.ids = indptr.astype(np.int64), ids

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> GeneTokens:
        """Make the table of one sequence of ids a gene."""
        indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        return cls(
            indptr, np.fromiter((t for r in rows for t in r), np.int32, count=int(indptr[-1]))
        )

    def row(self, column: int) -> np.ndarray:
        """Return the ids of one gene."""
        return self.ids[self.indptr[column] : self.indptr[column + 1]]

    def gather(self, columns: np.ndarray) -> np.ndarray:
        """Return the ids of genes, one gene after the other."""
        columns = np.asarray(columns, dtype=np.int64)
        lengths = self.indptr[columns + 1] - self.indptr[columns]
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
            self.indptr[columns] - ends + lengths, lengths
        )
        return self.ids[at]


def train_text_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE tokenizer that can write any text; same texts, same tokenizer.

    For models from random weights that have no tokenizer of their own (the `mini` preset).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )


def add_gene_tokens(backend: PreTrainedTokenizerFast, vocabulary: GeneVocabulary) -> int:
    """Add one token a gene to a tokenizer; return by how many it grew.

    A gene token swallows the space before it and matches whole words only, so that the text of a sentence
    gives one token a gene and "INS" is not found in "INSULIN". A gene whose symbol is a piece of the text
    tokenizer already ("CAT" of the Pythia tokenizer, one-letter genes of any) shares its token with that
    piece, because a tokenizer has one token for one text.
    """
    from transformers import AddedToken

    before = len(backend)
    backend.add_tokens(
        [
            AddedToken(word, single_word=True, lstrip=True, normalized=False)
            for word in vocabulary.words
        ]
    )
    return len(backend) - before


def save_tokenizer(backend: PreTrainedTokenizerFast, folder: str | os.PathLike[str]) -> None:
    """Write a tokenizer as `save_pretrained` does; a full disk is an `OSError`, as everywhere else."""
    try:
        backend.save_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        number = re.search(r"\(os error (\d+)\)$", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error


def _is_generic(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that needs no class of its own: all of it is in its `tokenizer.json`."""
    config = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file() or not config.is_file():
        return False
    name = json.loads(config.read_bytes()).get("tokenizer_class")
    return name in ("PreTrainedTokenizerFast", "TokenizersBackend")


def load_tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a folder or a hub id.

    Raises
    ------
    InputError
        There is none, or it cannot be read.
    """
    try:
        if _is_generic(Path(folder)):
            # Not AutoTokenizer, which loads torch: 140 MB and more than a second.
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        where = folder if not Path(folder).exists() else f"{Path(folder)}/tokenizer.json"
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: no tokenizer can be read there ({reason})") from error
