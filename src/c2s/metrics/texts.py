"""BERTScore: how much two texts say the same, by the best-matching tokens of each in the other.

The encoder is passed in; `c2s.encoders.text.TransformerTextEncoder` makes one from a local folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from c2s.common.errors import InputError, UsageError

BERTSCORE_SETTINGS = MappingProxyType(
    {
        # SPEC §7.4. bert-score has no entry for BioBERT: 9 is the layer of its cased relatives.
        "biobert": MappingProxyType(
            {"model": "dmis-lab/biobert-v1.1", "num_layers": 9, "idf": False, "rescale": False}
        ),
        # SPEC §4.4. The default of bert-score for English.
        "roberta-large": MappingProxyType(
            {"model": "roberta-large", "num_layers": 17, "idf": False, "rescale": False}
        ),
    }
)
"""Settings by name: the model, the layer whose output is compared, and that tokens are neither weighted by
inverse document frequency nor scores rescaled. Not specified by the paper beyond the model's name."""

_PAIRS = 256  # pairs encoded at a time

Encoded = np.ndarray | tuple[np.ndarray, np.ndarray]


class TextEncoder(Protocol):
    """What `bertscore` asks of an encoder of texts."""

    def __call__(self, texts: Sequence[str], /) -> Sequence[Encoded]:
        """Return the tokens' embeddings of each text.

        Parameters
        ----------
        texts
            Any number of texts.

        Returns
        -------
        sequence
            For each text an array of shape (n_tokens, d), or a pair of it and the tokens' weights, shape (n_tokens,),
            at least 0. Tokens of weight 0, such as a BERT's [CLS] and [SEP], can be found by tokens of the other text
            and do not look for one themselves, as in bert-score. Without weights, all tokens weigh the same.
        """


@dataclass(frozen=True)
class BertScore:
    """Result of `bertscore_parts`: float64 arrays of shape (n_pairs,).

    Attributes
    ----------
    precision
        Mean similarity of the candidate's tokens with the best of the reference's.
    recall
        The same of the reference's tokens.
    f1
        Their harmonic mean.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def bertscore(
    candidates: Sequence[str], references: Sequence[str], encoder: TextEncoder
) -> np.ndarray:
    """Return the BERTScore F1 of each candidate and its reference.

    Parameters
    ----------
    candidates, references : sequence of str
        Answers and true answers, paired by position.
    encoder
        From texts to embeddings of tokens. `BERTSCORE_SETTINGS` has the paper's models by name:
        ``TransformerTextEncoder(folder, num_layers=BERTSCORE_SETTINGS["biobert"]["num_layers"])``.

    Returns
    -------
    float64 array, shape (n_pairs,)
        At most 1, higher is better; 0 when one text is empty. Not rescaled: unrelated texts often score above 0.7,
        so compare with shuffled references. A pair's score does not depend on other pairs.

    Raises
    ------
    InputError
        Different numbers of texts, or embeddings that are not finite, are 0, or do not fit together.
    UsageError
        A single text where a list is expected.

    References
    ----------
    SPEC §4.4, §7.4. Zhang et al. 2020, "BERTScore: evaluating text generation with BERT", ICLR; equal to the package
    bert-score 0.3.13 without IDF and rescaling.

    Examples
    --------
    >>> words = {"beta": [1.0, 0.0], "alpha": [0.0, 1.0], "cells": [0.6, 0.8]}
    >>> encode = lambda texts: [np.array([words[w] for w in text.split()]) for text in texts]
    >>> bertscore(["beta cells", "beta", ""], ["beta cells", "alpha cells", "beta"], encode).round(3).tolist()
    [1.0, 0.4, 0.0]
    """
    return bertscore_parts(candidates, references, encoder).f1


def bertscore_parts(
    candidates: Sequence[str], references: Sequence[str], encoder: TextEncoder
) -> BertScore:
    """Return precision, recall and F1 of BERTScore; see `bertscore`.

    Returns
    -------
    BertScore

    Raises
    ------
    InputError, UsageError
        As `bertscore`.
    """
    if isinstance(candidates, str) or isinstance(references, str):
        raise UsageError("bertscore: found a single text, expected lists of texts")
    if len(candidates) != len(references):
        raise InputError(
            f"bertscore: found {len(candidates)} candidates and {len(references)} references, expected pairs"
        )
    scores = np.zeros((len(candidates), 3))
    for start in range(0, len(candidates), _PAIRS):
        pairs = list(zip(candidates[start:], references[start : start + _PAIRS], strict=False))
        texts = sorted({text for pair in pairs for text in pair if text.strip()})
        encoded = dict(zip(texts, _encode(texts, encoder), strict=True))
        for i, (candidate, reference) in enumerate(pairs):
            if candidate in encoded and reference in encoded:
                scores[start + i] = _score(encoded[candidate], encoded[reference])
    return BertScore(*scores.T.copy())


def _encode(texts: list[str], encoder: TextEncoder) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return unit vectors (n_tokens, d) and weights that sum to 1, or are all 0, of each text."""
    found = list(encoder(texts)) if texts else []
    if len(found) != len(texts):
        raise InputError(f"encoder: found {len(found)} results for {len(texts)} texts")
    checked = [_unit(text, result) for text, result in zip(texts, found, strict=True)]
    if len({vectors.shape[1] for vectors, _ in checked}) > 1:
        raise InputError("encoder: found embeddings of different width; use one encoder")
    return checked


def _unit(text: str, result: Any) -> tuple[np.ndarray, np.ndarray]:
    vectors, weights = result if isinstance(result, tuple) else (result, None)
    vectors = np.asarray(vectors, dtype=np.float64)
    share = np.ones(len(vectors)) if weights is None else np.asarray(weights, dtype=np.float64)
    if vectors.ndim != 2 or share.shape != vectors.shape[:1]:
        raise InputError(
            f"encoder: {text[:40]!r} has embeddings of shape {vectors.shape} and weights of shape "
            f"{share.shape}, expected (n_tokens, d) and (n_tokens,)"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all() and (share >= 0).all()):
        raise InputError(
            f"encoder: {text[:40]!r} has a token whose embedding is 0 or not finite, or whose "
            "weight is below 0 or missing"
        )
    total = share.sum()
    return vectors / lengths[:, None], share / total if total else share


def _score(
    candidate: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float, float]:
    (mine, my_weights), (theirs, their_weights) = candidate, reference
    if not (my_weights.any() and their_weights.any()):
        return 0.0, 0.0, 0.0
    similarity = mine @ theirs.T
    precision = float(similarity.max(axis=1) @ my_weights)
    recall = float(similarity.max(axis=0) @ their_weights)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
