"""Encoders that can be trained on: what a fine-tuned classification head needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from c2s.cells.vocabulary import GeneVocabulary
from c2s.encoders.base import CellEncoder

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch


class TrainableEncoder(CellEncoder, Protocol):
    """A `CellEncoder` around a network, whose points have gradients.

    Attributes
    ----------
    network
        The module that `forward` runs, a plain attribute: a shallow copy of the encoder (`copy.copy`) with another
        module of the same kind put there is an encoder with that module, and leaves the first as it was. So nothing
        that comes from the weights may be kept elsewhere in the encoder, except for `digest`.
    """

    network: torch.nn.Module

    def prepare(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> list[Any]:
        """Return one input per cell, made of its profile alone; parameters and errors as `CellEncoder.encode`.

        Inputs are kept for all training cells and used in every epoch, so they are small (token ids as NumPy arrays,
        not padded) and stay off the device of the network.
        """
        ...

    def forward(self, inputs: Sequence[Any]) -> torch.Tensor:
        """Return the places of one batch of prepared cells, with gradient.

        The network is run as it stands: in training mode or not, on the device where its weights are, and padded to
        the longest cell of the batch.

        Returns
        -------
        float32 tensor, shape (len(inputs), n_dimensions)
            As `encode` gives them, but before a scaling to unit length where the encoder has one.
        """
        ...
