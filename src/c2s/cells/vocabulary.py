"""Gene identity: one sentence word per matrix column, and the way back.

The commonest silent corruption in this field is a gene name that drifts from its column: upper-casing
merges `Abc` and `ABC`, an id column is taken for a symbol, a duplicated symbol points at the wrong row
(SPEC §21a). Names are looked up only here; everything else in the project handles column numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, listing, nearest
from c2s.common.seeds import text_keys

#: Ensembl gene ids of any species, with or without a version: ENSG00000141510, ENSMUSG00000059552.7,
#: ENSG00000002586.20_PAR_Y. `ENSA` is the gene endosulfine alpha, not an id.
ENSEMBL_ID = re.compile(r"^(ENS[A-Z]{0,6}G\d{11})(\.\d+)?(_PAR_Y)?\Z", re.IGNORECASE | re.ASCII)

#: Columns of `var` that hold symbols beside ids, in the order in which they are believed.
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol")

#: What to do about genes that have an id and no symbol.
ADD_SYMBOLS = f"add symbols as var[{SYMBOL_COLUMNS[0]!r}]; a model knows genes by their symbols"


class GeneVocabulary:
    """A one-to-one map between matrix columns and the words of a cell sentence.

    Words are upper-case gene symbols without white space. They are chosen per column by these rules:

    1. **Symbol.** A name that is an Ensembl gene id is replaced by the symbol given for that column, where
       there is one; otherwise the id itself, without its version, is the word. So is a bare number, which
       CELLxGENE's files have for names. Any other name is the symbol.
    2. **Upper case**, for all organisms (SPEC §2.5). The original names are kept in `names` and `symbols`.
    3. **Collisions.** When columns share a word, one keeps it: the first whose symbol is written just so
       (`ABC` before `Abc`), else the first. Each other takes `WORD_<id>` where its Ensembl id is known,
       else `WORD_2`, `WORD_3`, … in column order, skipping words that are taken.

    Parameters
    ----------
    names
        The names of the columns, as in `adata.var_names`.
    symbols
        A symbol per column, or missing values where there is none; used only where the name is an id.

    Raises
    ------
    InputError
        A word would be empty or contain white space.

    Examples
    --------
    >>> vocabulary = GeneVocabulary(["Abc", "ABC", "ENSA"])
    >>> vocabulary.words
    ('ABC_2', 'ABC', 'ENSA')
    >>> vocabulary.column("abc")
    1
    """

    def __init__(self, names: Sequence[str], symbols: Sequence[str | None] | None = None) -> None:
        self.names: tuple[str, ...] = tuple(str(name) for name in names)
        if symbols is not None and len(symbols) != len(self.names):
            raise InputError(f"{len(symbols):,} symbols were given for {len(self.names):,} genes")
        ids = [ENSEMBL_ID.match(name) for name in self.names]
        self.symbols: tuple[str, ...] = tuple(
            _symbol(name, match, None if symbols is None else symbols[i])
            for i, (name, match) in enumerate(zip(self.names, ids, strict=True))
        )
        _refuse_unwritable(self.names, self.symbols)
        self.words: tuple[str, ...] = _distinct_words(
            self.symbols, [None if m is None else _upper(m[1]) + _upper(m[3] or "") for m in ids]
        )
        self._columns: dict[str, int] = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def from_var(
        cls, var: pd.DataFrame, gene_names: Mapping[str, str] | str | None = None
    ) -> GeneVocabulary:
        """Make the vocabulary of a table of genes (`adata.var`).

        Parameters
        ----------
        var
            The table. Its index holds symbols, Ensembl ids, or both.
        gene_names
            Where the symbols of ids are found: a column of `var`, or a table from id (without version) to
            symbol. By default the first of `feature_name`, `gene_symbols`, `gene_symbol`, `gene_name`,
            `symbol` that `var` has.
        """
        names = [str(name) for name in var.index]
        if isinstance(gene_names, Mapping):
            table = {_upper(str(k)).split(".")[0]: v for k, v in gene_names.items()}
            symbols = [table.get(_upper(name).split(".")[0]) for name in names]
            return cls(names, symbols)
        if gene_names is not None and gene_names not in var:
            raise InputError(
                f"var has no column {gene_names!r}; it has: {listing([str(c) for c in var.columns]) or 'none'}"
            )
        column = gene_names or next((c for c in SYMBOL_COLUMNS if c in var), None)
        if column is None:
            return cls(names)
        values = var[column].astype(object).where(var[column].notna(), None)
        return cls(names, [None if v is None else str(v) for v in values])

    @classmethod
    def from_words(
        cls, words: Sequence[str], symbols: Sequence[str] | None = None
    ) -> GeneVocabulary:
        """Restore a vocabulary from its own words, as a model directory keeps them.

        Parameters
        ----------
        words
            Distinct upper-case words, in the order of the columns.
        symbols
            The symbols in their original case (`C10orf10`, `Gapdh`); by default the words.

        Raises
        ------
        InputError
            The words are not distinct upper-case words, or there are not as many symbols.
        """
        vocabulary = cls.__new__(cls)
        vocabulary.words = tuple(words)
        vocabulary.names = vocabulary.symbols = tuple(words if symbols is None else symbols)
        if len(vocabulary.symbols) != len(vocabulary.words):
            raise InputError(
                f"{len(vocabulary.symbols):,} symbols were given for {len(vocabulary.words):,} genes"
            )
        vocabulary._columns = {word: i for i, word in enumerate(vocabulary.words)}
        if len(vocabulary._columns) != len(vocabulary.words):
            twice = [w for w, n in Counter(words).items() if n > 1]
            raise InputError(f"the gene vocabulary lists {listing(twice, 3)} more than once")
        lower = [w for w in words if _upper(w) != w]
        if lower:
            raise InputError(
                f"the gene vocabulary has words that are not in upper case ({listing(lower, 3)});"
                " make it from gene names with GeneVocabulary(names)"
            )
        _refuse_unwritable(vocabulary.words, vocabulary.words)
        return vocabulary

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and _upper(word) in self._columns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneVocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"GeneVocabulary({len(self):,} genes: {listing(self.words, 4)})"

    def word(self, column: int) -> str:
        """Return the sentence word of a column.

        Raises
        ------
        IndexError
            There is no such column; −1, which stands for no gene, is none.
        """
        if column < 0:
            raise IndexError(f"column {column} is not a column of the gene vocabulary")
        return self.words[column]

    def column(self, word: str) -> int:
        """Return the column of a sentence word; case does not matter.

        Raises
        ------
        KeyError
            The word is not in the vocabulary.
        """
        return self._columns[_upper(word)]

    def columns(self, words: Sequence[str]) -> np.ndarray:
        """Return the column of each word, −1 where it is none of the vocabulary. int32, shape (n,)."""
        get = self._columns.get
        return np.fromiter((get(_upper(w), -1) for w in words), dtype=np.int32, count=len(words))

    def name(self, word: str) -> str:
        """Return the original name (`var_names`) of a sentence word, in its original case."""
        return self.names[self.column(word)]

    def align(self, other: GeneVocabulary) -> np.ndarray:
        """Return for each gene here its column in `other`, −1 where `other` lacks it. int32, (n_genes,)."""
        return other.columns(self.words)

    def mask(self, genes: Sequence[str]) -> np.ndarray:
        """Return a boolean array over columns that selects a panel of genes by word or by original name.

        A name that several columns have selects them all; a name that is none is taken for a word.

        Raises
        ------
        InputError
            None of the genes is in the vocabulary.
        """
        genes = [str(g) for g in genes]
        by_name: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            by_name.setdefault(name, []).append(i)
        selected = np.zeros(len(self), dtype=bool)
        for gene in genes:
            word = self._columns.get(_upper(gene))
            selected[by_name.get(gene, [] if word is None else [word])] = True
        if not selected.any():
            example = genes[0] if genes else ""
            close = nearest(example, self.words) if example else []
            raise InputError(
                f"none of the {len(genes):,} genes asked for is in the data, for example {example!r}"
                + (f" (nearest: {listing(close)})" if close else "")
            )
        return selected

    def keys(self) -> np.ndarray:
        """Return one unsigned 64-bit hash per gene word, for seeded ties. Shape (n_genes,)."""
        if not hasattr(self, "_keys"):
            self._keys = text_keys(self.words)
        return self._keys


def _upper(text: str) -> str:
    """Return `text` in upper case, repeated until nothing changes (a few Unicode letters need two passes)."""
    upper = text.upper()
    while upper != text:
        text, upper = upper, upper.upper()
    return upper


def _symbol(name: str, match: re.Match[str] | None, given: str | None) -> str:
    if match is None and not name.isdecimal():
        return name
    # A missing symbol may also be a float NaN or pandas' NA, which are no str.
    if not isinstance(given, str) or given.strip().lower() in ("", "nan", "none", "na", "<na>"):
        return name if match is None else match[1] + (match[3] or "")
    given = given.strip()
    # CELLxGENE writes the id itself where a gene has no symbol.
    again = ENSEMBL_ID.match(given)
    return again[1] + (again[3] or "") if again else given


def _refuse_unwritable(names: Sequence[str], symbols: Sequence[str]) -> None:
    bad = [
        repr(n) if any(c.isspace() for c in n) or not n else f"{s!r} for {n}"
        for n, s in zip(names, symbols, strict=True)
        if not s or any(c.isspace() for c in s)
    ]
    if bad:
        raise InputError(
            f"{len(bad):,} gene name{'s are' if len(bad) > 1 else ' is'} empty or contain"
            f"{'' if len(bad) > 1 else 's'} white space ({listing(bad, 3)}); a cell "
            "sentence separates genes by spaces, so rename or drop them in var_names"
        )


def _distinct_words(symbols: Sequence[str], ids: Sequence[str | None]) -> tuple[str, ...]:
    plain = [_upper(s) for s in symbols]
    groups: dict[str, list[int]] = {}
    for i, word in enumerate(plain):
        groups.setdefault(word, []).append(i)
    taken = set(groups)
    words = list(plain)
    for word, members in groups.items():
        if len(members) == 1:
            continue
        keeper = next((i for i in members if symbols[i] == word), members[0])
        number = 2
        for i in members:
            if i == keeper:
                continue
            candidate = f"{word}_{ids[i]}" if ids[i] else ""
            while not candidate or candidate in taken:
                candidate = f"{word}_{number}"
                number += 1
            taken.add(candidate)
            words[i] = candidate
    return tuple(words)
