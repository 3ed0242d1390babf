"""Cells drawn from scVI's generative model, type by type (extra `scvi`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.baselines._checks import training_labels
from c2s.baselines.generation import BLOCK, drawn_by_type, drawn_in_blocks
from c2s.common.errors import InputError, UsageError
from c2s.encoders.scvi_tools import latent_posterior, require_counts, train_scvi

if TYPE_CHECKING:
    import scipy.sparse as sp


class ScviSampling:
    """Counts drawn from scVI, trained on the cells of all types, with a Gaussian over its latent space for each type.

    A cell of a type is made as scVI's model says: a latent point, a library size, then a count of each gene from the
    zero-inflated negative binomial distribution that the decoder gives. Where the latent points come from decides what
    is measured. Points drawn from the posterior of a training cell give that cell back with other noise, which is close
    to memorising. So the points of a type come from **one Gaussian with the mean and covariance of its cells'
    posteriors together** (the covariance of their means plus their average variance), and library sizes from random
    training cells of the type: nothing of a single training cell is used but one number. The type is not an input of
    the network, whose latent space keeps types apart by itself; given to the decoder it made no better pancreas cells.

    Parameters
    ----------
    n_latent, n_layers
        Dimensions of the latent space; hidden layers of 128 units.
    max_epochs
        Passes over the cells; None is scvi-tools' rule, 400 for up to 20,000 cells and fewer for more.
    min_cells
        Genes expressed in fewer training cells are left out, and 0 in every sample.
    seed
        Of training. On a CPU the same seed gives the same model.
    device
        Where the network is trained: "cpu", "cuda", "mps"; None for a GPU where there is one. Samples are drawn on the
        CPU.

    Attributes
    ----------
    types_ : array of str, shape (n_types,)
        Sorted labels, known after `fit`.

    References
    ----------
    Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics", Nature Methods 15:1053.

    Examples
    --------
    >>> model = ScviSampling().fit(counts, labels)  # doctest: +SKIP
    >>> model.sample(["beta", "alpha"], seed=0)  # doctest: +SKIP
    """

    name = "scvi"
    needs_counts = True

    types_: np.ndarray

    def __init__(
        self,
        n_latent: int = 10,
        n_layers: int = 1,
        max_epochs: int | None = None,
        min_cells: int = 3,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        if min_cells < 1:
            raise UsageError(f"min_cells: found {min_cells}, expected at least 1")
        self.n_latent = int(n_latent)
        self.n_layers = int(n_layers)
        self.max_epochs = max_epochs
        self.min_cells = int(min_cells)
        self.seed = int(seed)
        self.device = device
        self._module: Any = None
        self._types: dict[str, _Type] = {}

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> ScviSampling:
        """Train the network, and find where the cells of each type lie.

        Parameters
        ----------
        matrix : CSR, shape (n_cells, n_genes)
            Raw counts.
        labels : array of str, shape (n_cells,)

        Raises
        ------
        UsageError
            scvi-tools is not installed, or a parameter cannot work.
        InputError
            Not one label per cell, a missing label, values that are no counts, or a cell without any in the genes that
            are used.
        """
        labels = training_labels(self.name, matrix, labels)
        require_counts(self.name, matrix)
        cells_per_gene = np.bincount(matrix.indices[matrix.data > 0], minlength=matrix.shape[1])
        self._genes = np.flatnonzero(cells_per_gene >= self.min_cells)
        counts = matrix[:, self._genes]
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        if not totals.all():
            raise InputError(
                f"{self.name}: cell {int(np.argmin(totals))} has no count in the {len(self._genes):,} genes that at "
                f"least {self.min_cells} cells express; leave it out"
            )
        model = train_scvi(
            counts, n_latent=self.n_latent, n_layers=self.n_layers, max_epochs=self.max_epochs, seed=self.seed,
            device=self.device,
        )  # fmt: skip
        means, variances = latent_posterior(model)
        self._module = model.module.cpu()
        self._shape, self._dtype = matrix.shape[1], matrix.dtype
        self.types_ = np.unique(labels)
        self._types = {
            str(kind): _Type.of(means[labels == kind], variances[labels == kind], totals[labels == kind])
            for kind in self.types_
        }  # fmt: skip
        return self

    def sample(self, labels: np.ndarray, seed: int) -> sp.csr_matrix:
        """Draw one cell for each requested label, as counts.

        Parameters
        ----------
        labels : array of str, shape (n,)
            Type of each cell wanted; may repeat.
        seed
            The cells of a type depend on the seed, the type and their number within the type, and not on which other
            types are asked for, nor on how many.

        Returns
        -------
        CSR, shape (n, n_genes)
            Counts; row i is of type ``labels[i]``.

        Raises
        ------
        InputError
            A label that was not in the training cells.
        UsageError
            `fit` was not called.
        """

        def draw(kind: str, n: int) -> list[sp.csr_matrix]:
            return drawn_in_blocks(partial(self._draw, self._types[kind]), n, seed, self.name, kind)

        return drawn_by_type(self.name, self._types, labels, draw)

    def _draw(self, kind: _Type, rng: np.random.Generator) -> sp.csr_matrix:
        """Return a block of cells of a type, `BLOCK` rows."""
        import scipy.sparse as sp

        latent, totals = kind.draw(rng, BLOCK)
        mean, dispersion, dropped = self._decode(latent, totals)
        # A negative binomial is a Poisson with a gamma-distributed rate.
        counts = rng.poisson(rng.gamma(dispersion, mean / dispersion))
        counts[rng.random(counts.shape) < dropped] = 0
        row, gene = np.nonzero(counts)
        values = counts[row, gene].astype(self._dtype)
        return sp.csr_matrix((values, (row, self._genes[gene])), shape=(BLOCK, self._shape))

    def _decode(
        self, latent: np.ndarray, totals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean, dispersion and dropout probability of each gene, shapes (n, n_genes), float64."""
        import torch

        with torch.inference_mode():
            found = self._module.generative(
                z=torch.from_numpy(latent.astype(np.float32)),
                library=torch.from_numpy(np.log(totals).astype(np.float32)[:, None]),
                batch_index=torch.zeros(len(latent), 1, dtype=torch.int64),
            )["px"]
            parts = (found.mu, found.theta.expand_as(found.mu), torch.sigmoid(found.zi_logits))
            mean, dispersion, dropped = (part.numpy().astype(np.float64) for part in parts)
        return mean, np.maximum(dispersion, 1e-8), dropped


@dataclass(frozen=True)
class _Type:
    """Where a type lies: a Gaussian over the latent space, and the library sizes of its training cells.

    Attributes
    ----------
    mean : float64 array, shape (n_latent,)
    root : float64 array, shape (n_latent, n_latent)
        Cholesky factor of the covariance.
    totals : float64 array, shape (n_cells,)
    """

    mean: np.ndarray
    root: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, means: np.ndarray, variances: np.ndarray, totals: np.ndarray) -> _Type:
        """Match the first two moments of a mixture of posteriors, one for each cell (n_cells, n_latent)."""
        centred = means - means.mean(axis=0)
        covariance = centred.T @ centred / len(means) + np.diag(variances.mean(axis=0))
        return cls(means.mean(axis=0), np.linalg.cholesky(covariance), totals)

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return latent points (n, n_latent) and library sizes (n,)."""
        points = self.mean + rng.standard_normal((n, len(self.mean))) @ self.root.T
        return points, rng.choice(self.totals, n)
