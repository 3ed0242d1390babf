"""Annotation by one logistic regression per label on scaled expression, as CellTypist trains its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2s.baselines._checks import require_genes, training_labels
from c2s.common.errors import InputError, UsageError

if TYPE_CHECKING:
    import scipy.sparse as sp

_HIGHEST = 10.0  # scaled values are cut here, at training and at prediction
# What the first pass of feature selection is: SGDClassifier's default alpha, a penalty per cell.
_SELECTION_ALPHA = 1e-4


class CellTypistBaseline:
    """One-vs-rest logistic regression on standard-scaled expression, as CellTypist's default training.

    Each gene is centred and scaled to unit variance over the training cells, scaled values above 10 are cut to 10, and
    for each label a logistic regression with an L2 penalty (C = 1) tells its cells from all others. A cell gets the
    label with the highest score (CellTypist's "best match"); there is no majority vote over clusters and no rejection.

    Parameters
    ----------
    feature_selection
        Train twice: the second time on the union of the `top_genes` genes per label with the largest absolute
        coefficients in the first. CellTypist does so for large training sets and when it is asked to.
    top_genes
        Genes taken per label, fewer than there are genes.
    inverse_penalty
        Inverse strength of the L2 penalty (scikit-learn's ``C``).
    max_iterations
        Bound on the steps of the solver; None is CellTypist's choice: 1,000 below 50,000 cells, 500 below 500,000, 200
        above.

    Attributes
    ----------
    classes_ : array of str, shape (n_types,)
    coefficients_ : float64 array, shape (n_types, n_selected)
        Of scaled expression.
    intercepts_ : float64 array, shape (n_types,)
    genes_ : int64 array, shape (n_selected,)
        Columns that are used: those expressed in a training cell, or those selected.

    Notes
    -----
    Centred values are dense. Here the matrix stays sparse, with the same result: with s the scaled value of an entry
    plus its gene's scaled mean m, which is 0 where the gene is not expressed, a score is w·s − w·m + b, and the second
    term is done once for all cells. Only values above 0 can be cut, for a zero's scaled value is negative.

    Where it differs from CellTypist 1.7.1: the solver is L-BFGS for any number of cells (theirs is SAG above 50,000);
    and the first pass of feature selection is the optimum that their stochastic gradient descent approaches
    (C = 1 / (1e-4 · n_cells)), found with L-BFGS too, so that the same cells always select the same genes.

    On held-out pancreas cells the labels are those of CellTypist for all cells, and for 99.7 % with feature selection,
    where two seeds of theirs differ as well. Scores agree where CellTypist is given float64.

    Expression in log10 instead of natural logarithms is the same after scaling.

    References
    ----------
    Domínguez Conde et al. 2022, "Cross-tissue immune cell analysis reveals tissue-specific features in humans",
    Science 376:eabl5197. Xu et al. 2023, Cell 186:5876 (training with feature selection).
    """

    name = "celltypist"

    classes_: np.ndarray
    coefficients_: np.ndarray
    intercepts_: np.ndarray
    genes_: np.ndarray

    def __init__(
        self,
        feature_selection: bool = False,
        top_genes: int = 300,
        inverse_penalty: float = 1.0,
        max_iterations: int | None = None,
    ) -> None:
        if not inverse_penalty > 0:
            raise UsageError(f"inverse_penalty: found {inverse_penalty}, expected above 0")
        if top_genes < 1:
            raise UsageError(f"top_genes: found {top_genes}, expected at least 1")
        self.feature_selection = bool(feature_selection)
        self.top_genes = int(top_genes)
        self.inverse_penalty = float(inverse_penalty)
        self.max_iterations = max_iterations
        self._n_genes = 0

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> CellTypistBaseline:
        """Learn the weights of each gene for each label.

        Parameters
        ----------
        matrix : CSR, shape (n_cells, n_genes)
            log10-normalised expression.
        labels : array of str, shape (n_cells,)

        Raises
        ------
        InputError
            Numbers of cells and labels differ, there is only one label, no gene is expressed, or with feature selection
            not more than `top_genes` are.
        """
        labels = training_labels(self.name, matrix, labels, minimum=2)
        kinds, codes = np.unique(labels, return_inverse=True)
        genes, mean, scale = _moments(matrix)
        if len(genes) == 0:
            raise InputError(
                f"{self.name}: no gene is expressed in the {len(labels):,} training cells"
            )
        scaled = _scaled(matrix[:, genes], mean, scale)
        if self.feature_selection:
            chosen = self._select(scaled, mean / scale, codes, len(kinds))
            genes, mean, scale = genes[chosen], mean[chosen], scale[chosen]
            scaled = scaled[:, chosen]
        fitted = self._regress(scaled, mean / scale, codes, len(kinds), self.inverse_penalty)
        self.coefficients_, self.intercepts_ = fitted
        self.genes_, self._mean, self._scale = genes, mean, scale
        self.classes_, self._n_genes = kinds, matrix.shape[1]
        return self

    def scores(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the score (log odds against all other labels) of each label, shape (n_cells, n_types).

        Raises
        ------
        UsageError
            `fit` was not called.
        InputError
            Another number of genes than in `fit`.
        """
        if not self._n_genes:
            raise UsageError(
                f"{self.name}: fit() was not called; call it with training cells first"
            )
        require_genes(self.name, matrix, self._n_genes)
        scaled = _scaled(matrix[:, self.genes_], self._mean, self._scale)
        at_zero = self.intercepts_ - self.coefficients_ @ (self._mean / self._scale)
        return scaled @ self.coefficients_.T + at_zero

    def predict_proba(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return each label's one-vs-rest probability divided by their sum, shape (n_cells, n_types).

        CellTypist reports them undivided: there, a cell of no known type has low probabilities only. Raises as
        `scores`.
        """
        from scipy.special import log_expit, softmax

        # In logarithms: far from every label, all probabilities would round to zero.
        return softmax(log_expit(self.scores(matrix)), axis=1)

    def predict(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the label with the highest score, shape (n_cells,); raises as `scores`."""
        best = self.scores(matrix).argmax(axis=1)
        return self.classes_[best]

    def _select(
        self, scaled: sp.csr_matrix, mean: np.ndarray, codes: np.ndarray, n_types: int
    ) -> np.ndarray:
        """Return the genes, sorted, that are among the first `top_genes` of a label."""
        n_cells, n_genes = scaled.shape
        if n_genes <= self.top_genes:
            raise InputError(
                f"{self.name}: found {n_genes:,} expressed genes, expected more than top_genes = {self.top_genes:,}; "
                "lower it or turn feature_selection off"
            )
        inverse_penalty = 1 / (_SELECTION_ALPHA * n_cells)
        weights, _ = self._regress(scaled, mean, codes, n_types, inverse_penalty)
        first = np.argpartition(np.abs(weights), -self.top_genes, axis=1)[:, -self.top_genes :]
        return np.unique(first)

    def _regress(
        self,
        scaled: sp.csr_matrix,
        mean: np.ndarray,
        codes: np.ndarray,
        n_types: int,
        inverse_penalty: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (n_types, n_genes) and intercepts (n_types,) of one regression per label."""
        steps = self.max_iterations or _steps(len(codes))
        transposed = scaled.T.tocsr()
        fits = [
            _one_against_rest(scaled, transposed, mean, codes == kind, inverse_penalty, steps)
            for kind in range(n_types)
        ]
        return np.array([weights for weights, _ in fits]), np.array([b for _, b in fits])


def _steps(n_cells: int) -> int:
    return 1000 if n_cells < 50_000 else 500 if n_cells < 500_000 else 200


def _moments(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the expressed columns, and their means and standard deviations (ddof 0; 1 where it is 0)."""
    values = matrix.astype(np.float64)
    n = values.shape[0]
    total = np.asarray(values.sum(axis=0)).ravel()
    genes = np.flatnonzero(total)
    columns = values[:, genes].tocsc()
    mean = total[genes] / n
    # About the mean, not mean of squares less square of the mean: that rounds badly.
    column = np.repeat(np.arange(len(genes)), np.diff(columns.indptr))
    squares = np.bincount(column, (columns.data - mean[column]) ** 2, minlength=len(genes))
    deviation = np.sqrt((squares + (n - np.diff(columns.indptr)) * mean**2) / n)
    return genes, mean, np.where(deviation > 1e-9 * mean, deviation, 1.0)


def _scaled(matrix: sp.csr_matrix, mean: np.ndarray, scale: np.ndarray) -> sp.csr_matrix:
    """Return scaled values plus their genes' scaled means, cut where the scaled value is above 10; zeros stay zero."""
    values = matrix.astype(np.float64)
    gene = values.indices
    highest = _HIGHEST + mean[gene] / scale[gene]
    values.data = np.minimum(values.data / scale[gene], highest)
    return values


def _one_against_rest(
    scaled: sp.csr_matrix,
    transposed: sp.csr_matrix,
    mean: np.ndarray,
    positive: np.ndarray,
    inverse_penalty: float,
    steps: int,
) -> tuple[np.ndarray, float]:
    """Return weights and intercept that minimise the mean logistic loss plus |weights|² / (2 · C · n).

    The objective, its scale and the criteria to stop are those of scikit-learn's LogisticRegression (tol 1e-4), whose
    results it therefore has, but cells are centred inside the products.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    n, n_genes = scaled.shape
    target = positive.astype(np.float64)
    sign = 1 - 2 * target
    penalty = 1 / (inverse_penalty * n)

    def loss(place: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = place[:-1], place[-1]
        score = scaled @ weights + (intercept - mean @ weights)
        residual = (expit(score) - target) / n
        total = residual.sum()
        slope = transposed @ residual - mean * total + penalty * weights
        value = np.logaddexp(0, sign * score).mean() + penalty / 2 * weights @ weights
        return value, np.append(slope, total)

    options = {"maxiter": steps, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    start = np.zeros(n_genes + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return found.x[:-1], float(found.x[-1])
