"""The dictionaries that are published with Geneformer: which token a gene is, and its median expression."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2s.cells.vocabulary import ENSEMBL_ID, GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.encoders.plain_pickle import read_table

#: Stems of the published files; each is followed by the corpus, as in token_dictionary_gc104M.pkl, or by nothing.
_TOKENS, _MEDIANS = "token_dictionary", "gene_median_dictionary"
_NAMES, _MAPPING = "gene_name_id_dict", "ensembl_mapping_dict"

#: Where the published repository has them, from the folder of a model and from the folders around it.
_PLACES = (".", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")

#: A word of a `GeneVocabulary` may end in the id, where genes share a symbol.
_ID_BEHIND = re.compile(r"_(ENS[A-Z]{0,6}G\d{11})(?:_PAR_Y)?\Z")

_SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


@dataclass(frozen=True)
class GeneformerGenes:
    """Tokens and medians of genes, and the ways from a gene's name to its Ensembl id.

    Attributes
    ----------
    tokens
        Ensembl id, or "<pad>", "<mask>", "<cls>", "<eos>", to token id.
    medians
        Ensembl id to the median of its non-zero expression (counts per 10,000) in the pretraining corpus.
    names
        Gene symbol to Ensembl id; may be empty.
    mapping
        Ensembl id to the one that stands for it, for retired ids; may be empty.
    """

    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    names: Mapping[str, str]
    mapping: Mapping[str, str]

    @property
    def has_special(self) -> bool:
        """Whether sequences stand between <cls> and <eos>: models of the V2 series."""
        return "<cls>" in self.tokens and "<eos>" in self.tokens

    def known(self, gene: str) -> bool:
        """Return whether an Ensembl id has a token and a usable median."""
        median = self.medians.get(gene, math.nan)
        return gene in self.tokens and 0 < median < math.inf

    def find(self, vocabulary: GeneVocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the columns that are genes of the model.

        A column is known by its Ensembl id, where its name is one or its word ends in one, else by its symbol as it is
        written, else by its word, whatever the case of letters. Several columns may be one gene.

        Returns
        -------
        columns, tokens : int64 arrays, shape (n_known,)
        medians : float64 array, shape (n_known,)
        """
        folded: dict[str, str] = {}
        for symbol in sorted(
            self.names
        ):  # sorted: upper case first, and the same for any order of the file
            folded.setdefault(symbol.upper(), self.names[symbol])
        columns, genes = [], []
        for column, (name, symbol, word) in enumerate(
            zip(vocabulary.names, vocabulary.symbols, vocabulary.words, strict=True)
        ):
            candidates = (_ensembl(name, word), self.names.get(symbol), folded.get(word))
            ids = (self.mapping.get(c, c) for c in candidates if c is not None)
            gene = next((gene for gene in ids if self.known(gene)), None)
            if gene is not None:
                columns.append(column)
                genes.append(gene)
        return (
            np.array(columns, dtype=np.int64),
            np.array([self.tokens[gene] for gene in genes], dtype=np.int64),
            np.array([self.medians[gene] for gene in genes], dtype=np.float64),
        )

    def digest(self) -> bytes:
        """Return a SHA-256 of all four tables, whatever the order of their entries."""
        content = hashlib.sha256()
        for table in (self.tokens, self.medians, self.names, self.mapping):
            content.update(f"{len(table)}\0".encode())
            for key, value in sorted(table.items()):
                content.update(f"{key}\0{value!r}\0".encode())
        return content.digest()


def _ensembl(name: str, word: str) -> str | None:
    """Return the Ensembl id, without version, that a column is named by."""
    by_name, by_word = ENSEMBL_ID.match(name), ENSEMBL_ID.match(word)
    match = by_name or by_word or _ID_BEHIND.search(word)
    return None if match is None else match[1].upper()


def read_genes(model: Path, n_tokens: int, dictionaries: Path | None = None) -> GeneformerGenes:
    """Find and read the dictionaries that belong to a model.

    They are looked for in the model's folder and where the published repository has them (its folders ``geneformer``
    and ``geneformer/gene_dictionaries_30m``, up to two folders above the model). Only a token dictionary with just as
    many tokens as the model belongs to it: those of the V1 and V2 series differ.

    Parameters
    ----------
    model
        Folder of the weights.
    n_tokens
        Tokens that the model has.
    dictionaries
        Folder with the dictionaries; no other is looked at.

    Raises
    ------
    InputError
        There are none that fit, or a file is broken.
    UsageError
        Several fit.
    """
    passed_over: list[str] = []
    for place in [dictionaries] if dictionaries else _places(model):
        fitting = {}
        for path in _files(place, _TOKENS):
            tokens = _table(path, int, "a whole number ≥ 0", lambda token: token >= 0)
            if max(tokens.values(), default=-1) + 1 == n_tokens:
                fitting[path] = tokens
            else:
                passed_over.append(f"{path} has {len(tokens):,} tokens")
        if len(fitting) > 1:
            raise UsageError(
                f"{place}: {listing([p.name for p in fitting])} fit the model equally; give with dictionaries= a "
                "folder that has only those of its series"
            )
        for path, tokens in fitting.items():
            return _complete(path, tokens)
    found = f" ({listing(passed_over, 3)})" if passed_over else ""
    raise InputError(
        f"{dictionaries or model}: found no {_TOKENS}*.pkl with {n_tokens:,} tokens as the model has{found}; put the "
        f"dictionaries of its series beside it, or give their folder with dictionaries="
    )


def _places(model: Path) -> Iterator[Path]:
    """Yield the folders in which dictionaries may be, the nearest first."""
    model = model.resolve()
    for above in [model, *model.parents][:3]:
        yield from (above / place for place in _PLACES)


def _files(place: Path, stem: str) -> list[Path]:
    """Return the .pkl files of a kind, with those that exist only as .json, by name."""
    suffixes = (".pkl", ".json")
    return sorted({p.with_suffix(".pkl") for s in suffixes for p in place.glob(f"{stem}*{s}")})


def _complete(token_file: Path, tokens: dict[str, int]) -> GeneformerGenes:
    """Read the other dictionaries of the corpus that a token dictionary is of."""
    missing = sorted({"<pad>"} - tokens.keys())
    if missing or len(set(tokens.values())) != len(tokens):
        problem = f"no token {missing[0]!r}" if missing else "one token for several genes"
        raise InputError(f"{token_file}: found {problem}; the file is not a published one")

    def of_corpus(stem: str) -> Path:
        return token_file.with_name(token_file.name.replace(_TOKENS, stem, 1))

    medians = of_corpus(_MEDIANS)
    if not _exists(medians):
        raise InputError(f"{medians}: is missing; it belongs to {token_file.name}")
    texts = {
        stem: _table(of_corpus(stem), str, "a text") if _exists(of_corpus(stem)) else {}
        for stem in (_NAMES, _MAPPING)
    }
    return GeneformerGenes(
        tokens, _table(medians, float, "a number"), texts[_NAMES], texts[_MAPPING]
    )


def _exists(path: Path) -> bool:
    return path.is_file() or path.with_suffix(".json").is_file()


def _table(
    path: Path, kind: type, expected: str, fits: Callable[[Any], bool] = lambda _: True
) -> dict[str, Any]:
    """Return a dictionary from text to values of one kind."""
    table = read_table(path)
    for key, value in table.items():
        right = isinstance(value, (int, float) if kind is float else kind)
        if not isinstance(key, str) or isinstance(value, bool) or not right or not fits(value):
            raise InputError(f"{path}: found {key!r}: {value!r}, expected a text with {expected}")
    return {key: kind(value) for key, value in table.items()}
