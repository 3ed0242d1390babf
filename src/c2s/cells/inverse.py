"""The inverse model: from the rank of a gene in its sentence back to its expression (SPEC §3).

One straight line per data set in log-log space, `E = intercept + slope · log10(1 + r)`, with `r` the
0-based rank and `E` the normalised expression `log10(1 + 1e4 · count / total)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: The line is fitted to ranks below this (`log10(1 + r) < 3`), as the released code does (SPEC §3).
FIT_RANKS = 999

#: What to do with a gene named more than once. "c2s": its rank is the mean of its 0-based positions, other
#: ranks unchanged. "upstream": as the released code, which takes all occurrences out of the list, one gene
#: after another, and inserts each at the whole part of its mean position in the list as it then is.
DuplicateMode = Literal["c2s", "upstream"]

# Control tokens that released models leave at the end of a sentence (SPEC §3, §5).
_CONTROL_TOKENS = ("<ctrl100>", "<eos>", "<|endoftext|>", "<pad>")


@dataclass(frozen=True)
class ParsedSentences:
    """What a list of sentences says: for each, its genes with their ranks, and how well formed it was.

    Attributes
    ----------
    indptr : int64 array, shape (n_cells + 1,)
    genes : int32 array, shape (n_found,)
        Columns of the vocabulary, each at most once a cell.
    ranks : float64 array, shape (n_found,)
        0-based ranks; the mean of its positions where a gene was named several times.
    n_words, n_invalid, n_duplicates : int64 arrays, shape (n_cells,)
        Words in the sentence; words that are no gene of the vocabulary; words that repeat an earlier one.
    """

    indptr: np.ndarray
    genes: np.ndarray
    ranks: np.ndarray
    n_words: np.ndarray
    n_invalid: np.ndarray
    n_duplicates: np.ndarray


def sentence_words(text: str, vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the vocabulary column of each word of a sentence, −1 for a word that is no gene. int32.

    Control tokens of released models are dropped, letters are upper-cased, and punctuation behind a word
    is dropped where the word is not a gene with it: a generated answer ends with "." (SPEC §21c).
    """
    for token in _CONTROL_TOKENS:
        text = text.replace(token, " ")
    words = text.split()
    columns = vocabulary.columns(words)
    for i in np.flatnonzero(columns < 0):
        stripped = words[i].rstrip(".,;:!?\"'")
        columns[i] = vocabulary.columns([stripped])[0] if stripped else -2
    return columns[columns > -2]


def parse_sentences(
    sentences: Iterable[str], vocabulary: GeneVocabulary, *, mode: DuplicateMode = "c2s"
) -> ParsedSentences:
    """Read sentences back into genes and ranks (SPEC §3, inversion, steps 1–3).

    A word that is no gene keeps its rank and contributes nothing.

    Parameters
    ----------
    sentences
        Generated or written cell sentences, without their prompt.
    vocabulary
        Gives the words their columns.
    mode
        What to do with repeated genes; see `DuplicateMode`.
    """
    if mode not in ("c2s", "upstream"):
        raise UsageError(f"mode={mode!r} is unknown; use 'c2s' or 'upstream'")
    resolve = _mean_ranks if mode == "c2s" else _upstream_ranks
    genes, ranks, words, invalid, duplicates = [], [], [], [], []
    for sentence in sentences:
        columns = sentence_words(sentence, vocabulary)
        found, rank = resolve(columns)
        genes.append(found)
        ranks.append(rank)
        words.append(len(columns))
        invalid.append(int((columns < 0).sum()))
        duplicates.append(len(columns) - invalid[-1] - len(found))
    return ParsedSentences(
        np.concatenate([[0], np.cumsum([len(g) for g in genes])]).astype(np.int64),
        np.concatenate(genes).astype(np.int32) if genes else np.empty(0, np.int32),
        np.concatenate(ranks) if ranks else np.empty(0),
        *(np.array(a, dtype=np.int64) for a in (words, invalid, duplicates)),
    )


def _mean_ranks(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positions = np.flatnonzero(columns >= 0)
    genes, first, which = np.unique(columns[positions], return_index=True, return_inverse=True)
    ranks = (
        np.bincount(which, weights=positions) / np.bincount(which) if len(genes) else np.empty(0)
    )
    order = np.argsort(first)
    return genes[order], ranks[order]


def _upstream_ranks(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reproduce the released code, where each mean is taken in a list that has already changed (SPEC §21j)."""
    words = columns.tolist()
    for gene in dict.fromkeys(w for w in words if w >= 0):
        at = [i for i, w in enumerate(words) if w == gene]
        if len(at) > 1:
            words = [w for w in words if w != gene]
            words.insert(int(sum(at) / len(at)), gene)
    result = np.array(words, dtype=np.int64)
    ranks = np.flatnonzero(result >= 0)
    return result[ranks], ranks.astype(float)


@dataclass(frozen=True)
class RankExpressionModel:
    """`E = max(0, intercept + slope · log10(1 + rank))`, fitted on one data set (SPEC §3).

    Attributes
    ----------
    slope, intercept
        Of the line, in units of `log10(1 + normalised expression)` per decade of rank, and of the same.
    r2, pearson, spearman
        On all non-zero entries of cells that were not fitted; NaN where the line was given, not fitted.
    n_cells, n_held_out
        Cells fitted, and cells the three figures are from.
    target_sum
        Library size of the normalisation that the expression belongs to; None for data that came logged.
    vocabulary
        Reads text in `expression` when none is given.
    """

    slope: float
    intercept: float
    r2: float = float("nan")
    pearson: float = float("nan")
    spearman: float = float("nan")
    n_cells: int = 0
    n_held_out: int = 0
    target_sum: float | None = 1e4
    vocabulary: GeneVocabulary | None = None

    def at_rank(self, ranks: np.ndarray | Iterable[float]) -> np.ndarray:
        """Return the expression at 0-based ranks, clipped at 0 (SPEC §3, step 4). Same shape as `ranks`."""
        ranks = np.asarray(ranks, dtype=np.float64)
        return np.maximum(0.0, self.intercept + self.slope * np.log10(1.0 + ranks))

    def expression(
        self,
        cells: RankedCells | ParsedSentences | pa.Array | Iterable[str],
        vocabulary: GeneVocabulary | None = None,
        *,
        mode: DuplicateMode = "c2s",
        unlog: bool = False,
    ) -> sp.csr_matrix:
        """Return the expression that sentences stand for.

        Parameters
        ----------
        cells
            Ranked cells, or sentences as text (a list of str or a pyarrow array).
        vocabulary
            Columns of the result; by default that of the ranked cells, or the one the model was fitted on.
        mode
            What to do with genes named twice; see `DuplicateMode`.
        unlog
            Return `10^E − 1`, in units of `target_sum`, instead of `E`.

        Returns
        -------
        csr_matrix
            float32, shape (n_cells, n_genes). A gene that a sentence does not name is 0.
        """
        if isinstance(cells, RankedCells):
            vocabulary = vocabulary or cells.vocabulary
            indptr, genes = cells.indptr, cells.genes
            if vocabulary is not cells.vocabulary and vocabulary != cells.vocabulary:
                raise UsageError("ranked cells carry their own vocabulary; give no other")
            ranks = np.arange(len(genes)) - np.repeat(indptr[:-1], np.diff(indptr))
        else:
            vocabulary = vocabulary or self.vocabulary
            if vocabulary is None:
                raise UsageError(
                    "to read sentences as text, give the vocabulary that names the columns"
                )
            if isinstance(cells, str):
                raise UsageError("give a list of sentences, not one string")
            if isinstance(cells, ParsedSentences):
                parsed = cells
            else:
                texts: Iterable[str] = cells.to_pylist() if hasattr(cells, "to_pylist") else cells
                parsed = parse_sentences(texts, vocabulary, mode=mode)
            indptr, genes, ranks = parsed.indptr, parsed.genes, parsed.ranks
        values = self.at_rank(ranks)
        if unlog:
            values = 10.0**values - 1.0
        matrix = sp.csr_matrix(
            (values.astype(np.float32), genes.copy(), indptr.copy()),
            shape=(len(indptr) - 1, len(vocabulary)),
        )
        matrix.sort_indices()
        matrix.eliminate_zeros()
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """Return the line and how it was fitted, without the vocabulary, as JSON can hold it."""
        keys = (
            "slope",
            "intercept",
            "r2",
            "pearson",
            "spearman",
            "n_cells",
            "n_held_out",
            "target_sum",
        )
        values = {key: getattr(self, key) for key in keys}
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}

    @classmethod
    def from_dict(
        cls, values: dict[str, Any], vocabulary: GeneVocabulary | None = None
    ) -> RankExpressionModel:
        """Restore what `to_dict` gave."""
        clean: dict[str, Any] = {
            k: float("nan") if v is None and k != "target_sum" else v for k, v in values.items()
        }
        return cls(**clean, vocabulary=vocabulary)


def fit_line(
    train: RankedCells,
    held_out: RankedCells,
    *,
    max_rank: int = FIT_RANKS,
    target_sum: float | None = 1e4,
) -> RankExpressionModel:
    """Fit the line by least squares on `train` and measure it on `held_out`.

    Parameters
    ----------
    train, held_out
        Cells ranked over all expressed genes, whose `values` hold normalised expression.
    max_rank
        Entries at this 0-based rank and beyond are left out of the fit, not of the measurement.

    Raises
    ------
    InputError
        There are fewer than two different ranks to fit, or the cells carry no values.
    """
    x, y = rank_points(train)
    near = x < np.log10(1.0 + max_rank)
    x, y = x[near], y[near]
    if len(x) < 2 or np.ptp(x) == 0:
        raise InputError(
            "a line from rank to expression needs cells with at least two expressed genes"
        )
    slope, intercept = np.polynomial.polynomial.polyfit(x, y, 1)[::-1]
    x, y = rank_points(held_out)
    fitted = intercept + slope * x
    return RankExpressionModel(
        slope=float(slope),
        intercept=float(intercept),
        r2=_r2(y, fitted),
        pearson=_correlation(y, fitted),
        spearman=_spearman(y, fitted),
        n_cells=len(train),
        n_held_out=len(held_out),
        target_sum=target_sum,
        vocabulary=train.vocabulary,
    )


def rank_points(cells: RankedCells) -> tuple[np.ndarray, np.ndarray]:
    """Return `log10(1 + rank)` and value of every ranked entry, two float64 arrays of shape (n_ranked,).

    Raises
    ------
    InputError
        The cells carry no values.
    """
    if cells.values is None:
        raise InputError("the ranked cells carry no values to fit")
    ranks = np.arange(len(cells.genes)) - np.repeat(cells.indptr[:-1], cells.lengths)
    return np.log10(1.0 + ranks), cells.values.astype(np.float64)


def _r2(truth: np.ndarray, fitted: np.ndarray) -> float:
    spread = float(((truth - truth.mean()) ** 2).sum()) if len(truth) else 0.0
    return 1.0 - float(((truth - fitted) ** 2).sum()) / spread if spread > 0 else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _correlation(rankdata(a), rankdata(b))
