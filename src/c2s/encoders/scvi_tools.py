"""What is asked of scvi-tools (extra `scvi`): training without side effects, and saved models without unpickling."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import InputError, UsageError, missing_extra

if TYPE_CHECKING:
    import scipy.sparse as sp

#: The file in a folder that the `save` of scvi-tools' models writes.
SAVED_MODEL = "model.pt"
_FEWEST_CELLS = 3  # a batch of fewer has no use for batch normalisation
# What scvi-tools' saved models are made of besides tensors. Every other name in the file becomes an `_Inert`.
_KNOWN_TYPES = (
    "builtins.dict", "builtins.list", "builtins.tuple", "builtins.set", "builtins.slice", "builtins.bytes",
    "collections.OrderedDict",
    "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip


def require_counts(name: str, counts: sp.csr_matrix) -> None:
    """Refuse a matrix that does not hold whole numbers of 0 or more.

    Raises
    ------
    InputError
        It holds something else.
    """
    values = counts.data
    bad = np.flatnonzero(~((values >= 0) & (values == np.floor(values)) & np.isfinite(values)))
    if len(bad):
        cell = int(np.searchsorted(counts.indptr, bad[0], side="right")) - 1
        raise InputError(
            f"{name}: cell {cell} has the value {values[bad[0]]:g}, expected raw counts (whole numbers of 0 or more)"
        )


def train_scvi(
    counts: sp.csr_matrix,
    *,
    batch: np.ndarray | None = None,
    n_latent: int = 10,
    n_layers: int = 1,
    max_epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Any:
    """Train scVI with scvi-tools' defaults on all cells, without a word, a file or a change of global randomness.

    Parameters
    ----------
    counts : CSR, shape (n_cells, n_genes)
        Every cell has a count.
    batch : array of str, shape (n_cells,)
        What the decoder is told.
    n_latent, n_layers, max_epochs, seed, device
        As in `ScviEncoder.fit`.

    Returns
    -------
    scvi.model.SCVI

    Raises
    ------
    UsageError
        scvi-tools is not installed, or an argument cannot work.
    InputError
        Fewer than three cells.
    """
    from c2s.models.directory import resolve_device

    for option, value in (("n_latent", n_latent), ("n_layers", n_layers), ("max_epochs", max_epochs)):  # fmt: skip
        if value is not None and value < 1:
            raise UsageError(f"{option}: found {value}, expected at least 1")
    n_cells = counts.shape[0]
    if n_cells < _FEWEST_CELLS:
        raise InputError(
            f"scVI: found {n_cells} cells with counts, expected at least {_FEWEST_CELLS}"
        )
    device = resolve_device(device)
    scvi = import_scvi()
    import pandas as pd
    import torch
    from anndata import AnnData

    obs = pd.DataFrame(index=[str(i) for i in range(n_cells)])
    if batch is not None:
        obs["batch"] = pd.Categorical(batch)
    cells = AnnData(counts.astype(np.float32), obs=obs)
    # A last batch of one or two cells makes batch normalisation fail, or noise.
    size = next(b for b in range(128, 0, -1) if n_cells % b == 0 or n_cells % b >= _FEWEST_CELLS)
    accelerator, _, number = device.partition(":")
    with _quiet(), _own_randomness(torch, seed, device):
        scvi.model.SCVI.setup_anndata(cells, batch_key=None if batch is None else "batch")
        model = scvi.model.SCVI(cells, n_latent=n_latent, n_layers=n_layers)
        model.train(
            max_epochs=max_epochs, batch_size=size, accelerator="gpu" if accelerator == "cuda" else accelerator,
            devices=[int(number)] if number else 1,
            # Unshuffled, because scvi-tools would shuffle by a seed of its own; batches are shuffled anyway.
            train_size=1.0, shuffle_set_split=False,
            enable_progress_bar=False, logger=False, benchmark=False,
        )  # fmt: skip
    return model


def import_scvi() -> Any:
    """Return the module `scvi`.

    Raises
    ------
    UsageError
        scvi-tools is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Of packages that scvi-tools imports, about each other.
            warnings.simplefilter("ignore")
            import scvi
    except ImportError as error:
        raise missing_extra("scvi-tools", "scvi") from error
    return scvi


def latent_posterior(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and variances of scVI's approximate posterior of each training cell.

    Returns
    -------
    means, variances : float64 arrays, shape (n_cells, n_latent)
    """
    import torch

    with _quiet(), _own_randomness(torch, 0, str(model.device)):
        means, variances = model.get_latent_representation(return_dist=True)
    return means.astype(np.float64), variances.astype(np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the log lines and warnings of scvi-tools and of the trainer under it."""
    names = ("scvi", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")  # fmt: skip
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(scvi|lightning|torch|anndata)(\..*)?$")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_randomness(torch: Any, seed: int, device: str) -> Iterator[None]:
    """Seed PyTorch, and put everything back: random states, and cuDNN's settings, which the trainer changes."""
    on_gpu = device.startswith("cuda")
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    # The trainer draws from NumPy's global state, though nothing that matters here.
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[torch.device(device).index or 0] if on_gpu else []):
            torch.manual_seed(seed)
            cudnn.deterministic = True
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        np.random.set_state(numpy_state)  # noqa: NPY002


class _Inert(dict):
    """Stands for any object in a file whose type is not known to be harmless; takes everything and does nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None: ...


def read_saved(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """Read a model that scvi-tools' SCVI saved, without running code of the file.

    scvi-tools' own loader unpickles. Here PyTorch reads the file with ``weights_only``, and every object in it that is
    no tensor, array, text, number or plain container (pandas tables of the training's history, for one) is replaced by
    an empty one.

    Returns
    -------
    state : dict from str to array
        Weights of the module, by scvi-tools' names.
    settings : dict
        Arguments of the model that are numbers, texts or truth values, by name.
    names : list of str
        Genes, in the order of the network's inputs.

    Raises
    ------
    InputError
        The file is no such model.
    """
    try:
        stored = _load_inert(path)
        state = {k: v.numpy() for k, v in stored["model_state_dict"].items() if hasattr(v, "numpy")}
        names = [str(name) for name in np.asarray(stored["var_names"]).tolist()]
        given = stored["attr_dict"]["init_params_"]
        model = stored["attr_dict"]["registry_"]["model_name"]
        settings = dict(given["non_kwargs"])
        for more in given["kwargs"].values():
            settings.update(more)
    except (
        OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, RuntimeError, UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{path}: cannot be read as a model that scvi-tools saved ({type(error).__name__}: {reason})"
        ) from error
    if model != "SCVI":
        raise InputError(f"{path}: holds a model of the class {model}, expected SCVI")
    return state, settings, names


def _load_inert(path: Path) -> Any:
    import torch

    named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    unknown = [name for name in named if name not in _KNOWN_TYPES]
    # PyTorch fills dictionaries of few types only; a defaultdict may as well be a plain one.
    stand_in = {"collections.defaultdict": _plain_dict}
    inert = [(stand_in.get(name, _Inert), name) for name in unknown]
    known = [found for name in _KNOWN_TYPES if (found := _known_type(name)) is not None]
    kinds = [type(np.dtype(kind)) for kind in ("O", "U", "f4", "f8", "i4", "i8", "u4", "u8", "?")]
    with torch.serialization.safe_globals([*known, *kinds, *inert]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _plain_dict(*_args: Any) -> dict:
    return {}


def _known_type(name: str) -> tuple[Any, str] | None:
    """Return what a name of `_KNOWN_TYPES` stands for, with the name; None where this NumPy does not have it."""
    # Old NumPy's private modules are new NumPy's, under another name.
    module, _, attribute = name.replace("numpy.core", "numpy._core").rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None)
    return None if found is None else (found, name)
