"""Classifiers of cell types on top of an encoder: frozen with a linear probe, or trained together with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from c2s.baselines._checks import require_genes, training_labels
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.encoders.base import CellEncoder
from c2s.encoders.trainable import TrainableEncoder

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

_Model = TypeVar("_Model")

_WARM_UP = 0.1  # share of the steps in which the learning rate rises
_LARGEST_GRADIENT = 1.0


class EncoderHead:
    """Multinomial logistic regression on the places that an encoder gives to cells (a linear probe).

    Each dimension is scaled to mean 0 and variance 1 over the training cells. The encoder is left as it is.

    Parameters
    ----------
    encoder
        Any encoder; one that was fitted must not have seen the test cells.
    vocabulary
        Genes of the columns of all matrices.
    inverse_penalty
        Inverse strength of the L2 penalty (scikit-learn's ``C``).
    max_iterations
        Bound on the steps of the solver (L-BFGS).

    Attributes
    ----------
    name
        Name of the encoder and "_head".
    classes_ : array of str, shape (n_types,)

    Examples
    --------
    >>> head = EncoderHead(encoder, vocabulary).fit(train, labels)  # doctest: +SKIP
    >>> head.predict(test)  # doctest: +SKIP
    array(['alpha', 'beta'], dtype='<U5')
    """

    name: str
    classes_: np.ndarray

    def __init__(
        self,
        encoder: CellEncoder,
        vocabulary: GeneVocabulary,
        *,
        inverse_penalty: float = 1.0,
        max_iterations: int = 1000,
    ) -> None:
        if not inverse_penalty > 0:
            raise UsageError(f"inverse_penalty: found {inverse_penalty}, expected above 0")
        self.name = f"{encoder.name}_head"
        self.encoder, self.vocabulary = encoder, vocabulary
        self.inverse_penalty = float(inverse_penalty)
        self.max_iterations = int(max_iterations)
        self._model: Any = None

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> EncoderHead:
        """Learn from cells and their labels.

        Parameters
        ----------
        matrix : CSR, shape (n_cells, n_genes)
            log10-normalised expression.
        labels : array of str, shape (n_cells,)

        Raises
        ------
        InputError
            Not one label per cell, only one label, another number of genes than `vocabulary` has, or cells that the
            encoder refuses.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        labels = training_labels(self.name, matrix, labels, minimum=2)
        regression = LogisticRegression(C=self.inverse_penalty, max_iter=self.max_iterations)
        model = make_pipeline(StandardScaler(), regression)
        self._model = model.fit(self._points(matrix), labels)
        self.classes_ = self._model.classes_
        return self

    def predict_proba(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the probability of each label, float64 (n_cells, n_types).

        Raises
        ------
        UsageError
            `fit` was not called.
        InputError
            Another number of genes than `vocabulary` has, or cells that the encoder refuses.
        """
        return _fitted(self.name, self._model).predict_proba(self._points(matrix))

    def predict(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the likeliest label of each cell, shape (n_cells,); raises as `predict_proba`."""
        best = self.predict_proba(matrix).argmax(axis=1)
        return self.classes_[best]

    def _points(self, matrix: sp.csr_matrix) -> np.ndarray:
        require_genes(self.name, matrix, len(self.vocabulary))
        return np.asarray(self.encoder.encode(matrix, self.vocabulary), dtype=np.float64)


class FineTunedHead:
    """A classifier on an encoder's network, both trained by cross-entropy on the labels.

    AdamW, gradients clipped to norm 1, a learning rate that rises over the first tenth of the steps and then falls to
    0 in a line; all labels weigh the same. With ``hidden_layers=0`` the classifier is one linear layer on the cell's
    place, as Geneformer's (which has a pooler before it); with 2 it is scGPT's (a hidden layer is linear, ReLU, layer
    norm). The last step's weights are kept: no cells are set aside to stop early.

    The encoder that is given is not changed: its network is copied.

    Parameters
    ----------
    encoder
        An encoder that can be trained on, such as scGPT or Geneformer.
    vocabulary
        Genes of the columns of all matrices.
    epochs
        Times that each training cell is seen.
    learning_rate
        The highest of AdamW. Published: 1e-4 for scGPT, 5e-5 for Geneformer.
    batch_size
        Cells of a step, and cells at a time in prediction.
    train_encoder
        If False, only the classifier learns, from fixed places: `EncoderHead` does that to convergence.
    hidden_layers
        Of the classifier, each as wide as the space.
    weight_decay
        Of AdamW.
    seed
        Of the classifier's first weights, the order of cells and dropout. The same seed gives the same classifier on
        the same device with one thread.
    device
        By default where the encoder's network is.

    Attributes
    ----------
    name
        Name of the encoder and "_fine_tuned".
    classes_ : array of str, shape (n_types,)
    losses_ : float64 array, shape (n_steps,)
        Mean cross-entropy of each step's cells, in nats.

    References
    ----------
    Cui et al. 2024 (scGPT), Nature Methods 21:1470; Theodoris et al. 2023 (Geneformer), Nature 618:616: cell types
    by fine-tuning.

    Examples
    --------
    >>> encoder = ScGPTEncoder.from_folder("scGPT_human")  # doctest: +SKIP
    >>> head = FineTunedHead(encoder, vocabulary, epochs=5).fit(train, labels)  # doctest: +SKIP
    """

    name: str
    classes_: np.ndarray
    losses_: np.ndarray

    def __init__(
        self,
        encoder: TrainableEncoder,
        vocabulary: GeneVocabulary,
        *,
        epochs: int = 10,
        learning_rate: float = 1e-4,
        batch_size: int = 32,
        train_encoder: bool = True,
        hidden_layers: int = 0,
        weight_decay: float = 0.01,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        from c2s.models.directory import resolve_device

        if not hasattr(encoder, "network") or not hasattr(encoder, "prepare"):
            raise UsageError(
                f"{encoder.name}: is no encoder with a network that can be trained; use EncoderHead, which leaves the "
                "encoder as it is"
            )
        for option, value, least in (
            ("epochs", epochs, 1),
            ("batch_size", batch_size, 1),
            ("hidden_layers", hidden_layers, 0),
        ):
            if value < least:
                raise UsageError(f"{option}: found {value}, expected at least {least}")
        if not learning_rate > 0:
            raise UsageError(f"learning_rate: found {learning_rate}, expected above 0")
        if not weight_decay >= 0:
            raise UsageError(f"weight_decay: found {weight_decay}, expected at least 0")
        self.name = f"{encoder.name}_fine_tuned"
        self.encoder, self.vocabulary = encoder, vocabulary
        self.epochs, self.batch_size = int(epochs), int(batch_size)
        self.learning_rate, self.weight_decay = float(learning_rate), float(weight_decay)
        self.train_encoder, self.hidden_layers = bool(train_encoder), int(hidden_layers)
        self.seed = int(seed)
        self.device = None if device is None else resolve_device(device)
        self._classifier: torch.nn.Module | None = None

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> FineTunedHead:
        """Learn from cells and their labels, from the encoder's own weights on.

        Parameters
        ----------
        matrix : CSR, shape (n_cells, n_genes)
            log10-normalised expression.
        labels : array of str, shape (n_cells,)

        Raises
        ------
        InputError
            Not one label per cell, only one label, another number of genes than `vocabulary` has, cells that the
            encoder refuses, or a loss that is no longer finite.
        """
        import torch

        labels = training_labels(self.name, matrix, labels, minimum=2)
        require_genes(self.name, matrix, len(self.vocabulary))
        inputs = self.encoder.prepare(matrix, self.vocabulary)
        classes, targets = np.unique(labels, return_inverse=True)
        encoder, device = copy.copy(self.encoder), self._target()
        encoder.network = copy.deepcopy(self.encoder.network).to(device)
        # Dropout and first weights draw from PyTorch's global generators, which are put back after.
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            _seed_torch(int(generator(self.seed, "FineTunedHead").integers(2**63)), device)
            classifier = _classifier(encoder.n_dimensions, len(classes), self.hidden_layers)
            classifier.to(device)
            self.losses_ = self._train(encoder, classifier, inputs, torch.from_numpy(targets))
        self.classes_, self._tuned, self._classifier = classes, encoder, classifier
        return self

    def predict_proba(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the probability of each label, float64 (n_cells, n_types).

        Raises
        ------
        UsageError
            `fit` was not called.
        InputError
            Another number of genes than `vocabulary` has, or cells that the encoder refuses.
        """
        import torch

        classifier = _fitted(self.name, self._classifier)
        require_genes(self.name, matrix, len(self.vocabulary))
        inputs = self._tuned.prepare(matrix, self.vocabulary)
        result = np.empty((len(inputs), len(self.classes_)))
        with torch.inference_mode():
            for rows in _slices(len(inputs), self.batch_size):
                logits = classifier(self._tuned.forward(inputs[rows]))
                result[rows] = logits.double().softmax(dim=1).cpu().numpy()
        return result

    def predict(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Return the likeliest label of each cell, shape (n_cells,); raises as `predict_proba`."""
        best = self.predict_proba(matrix).argmax(axis=1)
        return self.classes_[best]

    def _target(self) -> str:
        return self.device or str(next(self.encoder.network.parameters()).device)

    def _train(
        self,
        encoder: TrainableEncoder,
        classifier: torch.nn.Module,
        inputs: Sequence[Any],
        targets: torch.Tensor,
    ) -> np.ndarray:
        """Train in place and return the loss of each step."""
        import torch

        weights = list(classifier.parameters())
        fixed = None
        if self.train_encoder:
            weights += [w for w in encoder.network.parameters() if w.requires_grad]
        else:
            fixed = _points(encoder, inputs, self.batch_size)
        encoder.network.train(self.train_encoder)
        classifier.train()
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = self.epochs * len(_slices(len(inputs), self.batch_size))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        losses = []
        for rows in self._batches(len(inputs)):
            points = encoder.forward([inputs[r] for r in rows]) if fixed is None else fixed[rows]
            logits = classifier(points)
            loss = torch.nn.functional.cross_entropy(logits, targets[rows].to(logits.device))
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise InputError(
                    f"{self.name}: the loss of step {len(losses):,} is {losses[-1]}; lower learning_rate "
                    f"(now {self.learning_rate})"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        encoder.network.eval()
        classifier.eval()
        return np.array(losses)

    def _batches(self, n: int) -> list[np.ndarray]:
        """Return the rows of each step: every cell once an epoch, in an order drawn for the epoch."""
        batches = []
        for epoch in range(self.epochs):
            order = generator(self.seed, "FineTunedHead", "epoch", epoch).permutation(n)
            batches += [order[rows] for rows in _slices(n, self.batch_size)]
        return batches


def _fitted(name: str, model: _Model | None) -> _Model:
    if model is None:
        raise UsageError(f"{name}: fit() was not called; call it with training cells first")
    return model


def _seed_torch(seed: int, device: str) -> None:
    """Seed PyTorch's generators of the CPU and of one device; `torch.manual_seed` reseeds those of all devices."""
    import torch

    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate of a step (from 0) as a share of the highest."""
    rising = max(1, round(_WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def _classifier(n_dimensions: int, n_classes: int, hidden_layers: int) -> torch.nn.Module:
    from torch import nn

    parts: list[nn.Module] = []
    for _ in range(hidden_layers):
        parts += [nn.Linear(n_dimensions, n_dimensions), nn.ReLU(), nn.LayerNorm(n_dimensions)]
    return nn.Sequential(*parts, nn.Linear(n_dimensions, n_classes))


def _points(encoder: TrainableEncoder, inputs: Sequence[Any], batch_size: int) -> torch.Tensor:
    """Return the places of all cells without gradient, by the network as it is used after training."""
    import torch

    encoder.network.eval()
    with torch.no_grad():
        batches = [encoder.forward(inputs[rows]) for rows in _slices(len(inputs), batch_size)]
    return torch.cat(batches)
