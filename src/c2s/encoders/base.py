"""What an encoder of cells is, and embeddings that say which encoder made them.

Every encoder takes expression as `c2s.pp.normalize` gives it, log10(1 + 1e4 · count / total), with the vocabulary that
names its columns. That is what cell sentences can be turned back into; an encoder that was trained on other units
(counts, values relative to gene medians) converts them itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError

if TYPE_CHECKING:
    import scipy.sparse as sp

_NAMED = re.compile(r"[a-z0-9_]+-[0-9a-f]{16}")


class CellEncoder(Protocol):
    """A map from expression profiles to points of a space.

    Attributes
    ----------
    name
        Short name of the kind, as "pca" or "scgpt": lower-case letters, digits and underscores.
    """

    name: str

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the space."""
        ...

    def encode(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return the places of cells.

        Parameters
        ----------
        expression : csr_matrix, shape (n_cells, n_genes)
            log10(1 + 1e4 · count / total).
        vocabulary
            Names of its columns.

        Returns
        -------
        float64 array, shape (n_cells, n_dimensions)

        Raises
        ------
        InputError
            The encoder knows none of the genes, or the matrix holds NaN or infinite values.
        """
        ...

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of everything that decides where a cell is placed."""
        ...


@dataclass(frozen=True)
class Embedded:
    """Places of cells, and the encoder that they come from.

    Attributes
    ----------
    points : float64 array, shape (n_cells, n_dimensions)
    encoder
        `encoder_id` of the encoder: its name and the first 16 digits of its content hash.
    """

    points: np.ndarray
    encoder: str

    def __post_init__(self) -> None:
        if not _NAMED.fullmatch(self.encoder):
            raise UsageError(
                f"encoder: found {self.encoder!r}, expected a name and 16 hexadecimal digits as encoder_id gives"
            )

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> Embedded:
        """Return some of the cells, in the order of `rows`."""
        return Embedded(self.points[rows], self.encoder)


def encoder_id(encoder: CellEncoder) -> str:
    """Return what names an encoder in results: its kind and 16 digits of its content hash."""
    return f"{encoder.name}-{encoder.digest()[:16]}"


def encode_cells(
    encoder: CellEncoder, expression: sp.csr_matrix, vocabulary: GeneVocabulary
) -> Embedded:
    """Return the places of cells with the name of their encoder; parameters and errors as `CellEncoder.encode`."""
    points = np.asarray(encoder.encode(expression, vocabulary), dtype=np.float64)
    return Embedded(points, encoder_id(encoder))


def encode_sentences(
    encoder: CellEncoder,
    sentences: RankedCells | Iterable[str],
    inverse: RankExpressionModel,
    vocabulary: GeneVocabulary | None = None,
) -> Embedded:
    """Turn cell sentences back into expression, and encode that.

    Parameters
    ----------
    encoder
        Any encoder.
    sentences
        Ranked cells, or sentences as text.
    inverse
        From rank to expression (SPEC §3), as `c2s.pp.fit_inverse` fits it and a model directory keeps it.
    vocabulary
        Genes that text may name; by default those of `inverse`. Ranked cells bring their own.

    Raises
    ------
    UsageError
        Text without a vocabulary.
    InputError
        As `CellEncoder.encode`.
    """
    names = (
        sentences.vocabulary
        if isinstance(sentences, RankedCells)
        else vocabulary or inverse.vocabulary
    )
    if names is None:
        raise UsageError("to read sentences as text, give the vocabulary that names the columns")
    given = None if isinstance(sentences, RankedCells) else names
    return encode_cells(encoder, inverse.expression(sentences, given), names)


def require_same_encoder(**embedded: Embedded) -> str:
    """Return the encoder that all embeddings come from.

    Parameters
    ----------
    **embedded
        Embeddings by what they are, as ``real=…, generated=…``.

    Raises
    ------
    InputError
        They come from different encoders: distances between their spaces mean nothing.
    """
    names = {what: each.encoder for what, each in embedded.items()}
    if len(set(names.values())) != 1:
        found = ", ".join(f"{what} by {name}" for what, name in names.items())
        raise InputError(
            f"embeddings of different encoders cannot be compared: {found}; encode all with one encoder"
        )
    return next(iter(names.values()))
