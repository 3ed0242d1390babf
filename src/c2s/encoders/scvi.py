"""The latent space of scVI, trained here with scvi-tools (extra `scvi`) or read from a model that scvi-tools saved."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.cells.profiles import align_columns
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.files import atomic_directory, refuse_foreign
from c2s.encoders.scvi_tools import SAVED_MODEL, read_saved, require_counts, train_scvi

if TYPE_CHECKING:
    import scipy.sparse as sp

_FILE = "scvi_encoder.npz"
_BLOCK = 4096  # cells at a time
_BATCH_NORM_EPS, _LAYER_NORM_EPS = 1e-3, 1e-5  # of scvi-tools and of PyTorch


class ScviEncoder:
    """The mean of scVI's approximate posterior, given a cell.

    scVI's encoder takes log(1 + counts), so that it sees how deeply a cell was sequenced. Cells that were reconstructed
    from sentences have no depth, and the comparison must be even: **every cell, real or generated, is scaled to the
    same number of counts** over the encoder's genes, the median of the training cells. So real cells lie close to where
    scvi-tools' `get_latent_representation` puts them, and exactly there if they have that number.

    Made by `fit` or `load`. Encoding needs NumPy only; `fit` needs scvi-tools, and `load` PyTorch for what scvi-tools
    saved. A cell that expresses none of the encoder's genes is placed where scVI puts an empty one.

    Attributes
    ----------
    vocabulary_
        The genes that the network sees.
    library_size_
        Counts that every cell is scaled to, over those genes.

    References
    ----------
    Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics", Nature Methods 15:1053. Gayoso et al.
    2022, "A Python library for probabilistic analysis of single-cell omics data" (scvi-tools), Nature Biotechnology
    40:163.

    Examples
    --------
    >>> encoder = ScviEncoder.fit(counts, vocabulary, genes="hvg 2000", seed=0)  # doctest: +SKIP
    >>> encoder.encode(c2s.pp.normalize(adata, copy=True).X, vocabulary).shape  # doctest: +SKIP
    (1937, 10)
    """

    name = "scvi"

    def __init__(
        self, network: EncoderNetwork, vocabulary: GeneVocabulary, library_size: float
    ) -> None:
        if not 0 < library_size < np.inf:
            raise UsageError(f"library_size: found {library_size}, expected counts above 0")
        if network.n_genes != len(vocabulary):
            raise InputError(
                f"scVI: found {len(vocabulary):,} genes, expected the {network.n_genes:,} that the network takes"
            )
        self.network = network
        self.vocabulary_ = vocabulary
        self.library_size_ = float(library_size)

    @classmethod
    def fit(
        cls,
        counts: sp.csr_matrix,
        vocabulary: GeneVocabulary,
        *,
        batch: np.ndarray | None = None,
        n_latent: int = 10,
        n_layers: int = 1,
        max_epochs: int | None = None,
        genes: str | Sequence[str] | None = "hvg 2000",
        seed: int = 0,
        device: str | None = None,
    ) -> ScviEncoder:
        """Train scVI on counts of real training cells, as scvi-tools trains it by default, but on all of them.

        Parameters
        ----------
        counts : CSR, shape (n_cells, n_genes)
            Raw counts. Cells without a count in the chosen genes are left out.
        vocabulary
            Genes of the columns.
        batch : array of str, shape (n_cells,)
            Donor, sample or study of each cell, which the decoder is told so that the space need not tell them apart.
        n_latent, n_layers
            Dimensions of the space; hidden layers of 128 units.
        max_epochs
            Passes over the cells; None is scvi-tools' rule, 400 for up to 20,000 cells and fewer for more.
        genes
            "hvg N" for the N most variable genes (of each batch together), names of genes, or None for all.
        seed
            Of the first weights, the order of cells and dropout. On a CPU the same seed gives the same weights.
        device
            "cpu", "cuda", "mps"; None for a GPU where there is one.

        Raises
        ------
        UsageError
            scvi-tools is not installed, or an argument cannot work.
        InputError
            The matrix does not hold counts, there are fewer than three cells with counts, or sizes differ.
        """
        if counts.shape[1] != len(vocabulary):
            raise InputError(
                f"scVI: found {counts.shape[1]:,} columns and {len(vocabulary):,} gene names, expected as many"
            )
        require_counts("scVI", counts)
        batch = None if batch is None else _batches(batch, counts.shape[0])
        columns = _columns(counts, vocabulary, batch, genes)
        chosen = counts[:, columns]
        total = np.asarray(chosen.sum(axis=1), dtype=np.float64).ravel()
        rows = np.flatnonzero(total)
        model = train_scvi(
            chosen[rows], batch=None if batch is None else batch[rows], n_latent=n_latent, n_layers=n_layers,
            max_epochs=max_epochs, seed=seed, device=device,
        )  # fmt: skip
        state = {k: v.cpu().numpy() for k, v in model.module.state_dict().items()}
        words = [vocabulary.words[c] for c in columns]
        symbols = [vocabulary.symbols[c] for c in columns]
        return cls(
            EncoderNetwork.of_scvi(state, {}),
            GeneVocabulary.from_words(words, symbols),
            float(np.median(total[rows])),
        )

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the space."""
        return self.network.n_dimensions

    def encode(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return the latent mean of each cell; see `CellEncoder.encode`.

        The logarithm is undone, and each cell scaled to `library_size_` counts over the encoder's genes. Genes that the
        encoder does not know are left out, and genes that the cells do not have count as not expressed.

        Raises
        ------
        InputError
            No gene in common; NaN, infinite or negative values.
        """
        import scipy.sparse as sp

        known = align_columns("scVI", expression, vocabulary, self.vocabulary_).astype(np.float64)
        if not (np.isfinite(known.data) & (known.data >= 0)).all():
            raise InputError(
                "scVI: the matrix holds NaN, infinite or negative values, expected log10(1 + counts per 10,000)"
            )
        places = np.empty((known.shape[0], self.n_dimensions))
        for start in range(0, known.shape[0], _BLOCK):
            block = known[start : start + _BLOCK]
            block.data = np.expm1(block.data * np.log(10))
            total = np.asarray(block.sum(axis=1)).ravel()
            scale = self.library_size_ / np.where(total > 0, total, 1)
            block = sp.csr_matrix(sp.diags_array(scale) @ block)
            places[start : start + _BLOCK] = self.network(block)
        return places

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of the weights, the genes and the number of counts."""
        content = hashlib.sha256(f"{self.name} {self.library_size_!r}".encode())
        content.update("\n".join(self.vocabulary_.words).encode())
        for name, array in sorted(self.network.arrays().items()):
            content.update(f"{name} {array.shape}".encode())
            content.update(array.astype("<f4").tobytes())
        return content.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `load` reads, without pickles; whole or not at all.

        Raises
        ------
        UsageError
            The folder holds something else than a saved encoder.
        """
        target = Path(folder)
        refuse_foreign(target, {_FILE})
        with atomic_directory(target) as temporary:
            arrays: dict[str, Any] = {
                "words": np.array(self.vocabulary_.words, dtype=str),
                "symbols": np.array(self.vocabulary_.symbols, dtype=str),
                "library_size": np.float64(self.library_size_),
                "settings": np.array(json.dumps(self.network.settings), dtype=str),
            }
            np.savez_compressed(temporary / _FILE, **{**arrays, **self.network.arrays()})

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        library_size: float | None = None,
        vocabulary: GeneVocabulary | None = None,
    ) -> ScviEncoder:
        """Read what `save` wrote, or what the `save` of scvi-tools' SCVI model wrote (``model.pt``).

        scvi-tools' own loader unpickles, which can run code that is in the file. Here PyTorch reads it with
        ``weights_only``, and everything that is no tensor, array, text or number is replaced by an empty object: no
        code of the file is run. Only the encoder's weights are taken.

        Parameters
        ----------
        folder
            The saved model.
        library_size
            For scvi-tools' models, which do not keep it: the counts that each cell is scaled to, the median total of
            the model's training cells over the model's genes.
        vocabulary
            For scvi-tools' models: the genes of the network in their order, where the saved names do not tell their
            symbols (Ensembl ids).

        Raises
        ------
        InputError
            There is no such model, or it is one that this encoder cannot stand for.
        UsageError
            `library_size` is missing, or given where the model has its own.
        """
        path = Path(folder)
        if (path / _FILE).is_file():
            if library_size is not None or vocabulary is not None:
                raise UsageError(
                    f"{path}: was saved with its genes and its number of counts; leave out library_size and vocabulary"
                )
            return cls._load_own(path / _FILE)
        if not (path / SAVED_MODEL).is_file():
            raise InputError(
                f"{path}: found neither {_FILE} nor {SAVED_MODEL}, expected a folder that ScviEncoder.save or "
                "scvi-tools' SCVI.save wrote"
            )
        state, settings, names = read_saved(path / SAVED_MODEL)
        if library_size is None:
            raise UsageError(
                f"{path}: scvi-tools does not save how many counts cells have; use ScviEncoder.load(folder, "
                "library_size=…) with the median total of the training cells over the model's genes, and save that"
            )
        network = EncoderNetwork.of_scvi(state, _network_settings(path, settings))
        return cls(network, vocabulary or GeneVocabulary(names), library_size)

    @classmethod
    def _load_own(cls, path: Path) -> ScviEncoder:
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            words, symbols = arrays.pop("words").tolist(), arrays.pop("symbols").tolist()
            library_size = float(arrays.pop("library_size"))
            settings = json.loads(str(arrays.pop("settings")))
            network = EncoderNetwork.of_scvi(arrays, settings)
            return cls(network, GeneVocabulary.from_words(words, symbols), library_size)
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: cannot be read as a saved scVI encoder ({type(error).__name__}: {error})"
            ) from error


class EncoderNetwork:
    """The encoder half of scVI as it runs after training, in NumPy.

    Layers of a linear map, batch normalisation by the running moments, optional normalisation over the units, and
    ReLU; then a linear map to the latent mean. Dropout is off.

    Parameters
    ----------
    weights : dict from str to array
        The tensors of scVI's ``z_encoder``, by their names in scvi-tools' module.
    settings
        ``log_variational`` (log(1 + x) first, by default true) and ``layer_norm`` (by default false).
    """

    def __init__(self, weights: dict[str, np.ndarray], settings: dict[str, bool]) -> None:
        self._weights = {name: np.asarray(a, dtype=np.float32) for name, a in weights.items()}
        self.settings = {"log_variational": True, "layer_norm": False, **settings}
        self._layers = [
            self._affine(f"encoder.fc_layers.Layer {i}.") for i in range(self._n_layers())
        ]
        self._last = self._linear("mean_encoder.")
        sizes = [w.shape for w, _ in self._layers] + [self._last[0].shape]
        if not sizes[:-1] or any(a[0] != b[1] for a, b in pairwise(sizes)):
            raise InputError(f"scVI: found layers of shapes {sizes}, expected them to fit together")
        self.n_genes, self.n_dimensions = sizes[0][1], sizes[-1][0]

    @classmethod
    def of_scvi(cls, state: dict[str, np.ndarray], settings: dict[str, bool]) -> EncoderNetwork:
        """Take the encoder's weights from all those of scvi-tools' module.

        Raises
        ------
        InputError
            They are not there.
        """
        prefix = "z_encoder."
        own = {
            name.removeprefix(prefix): array
            for name, array in state.items()
            if name.startswith((prefix, "encoder.fc_layers.", "mean_encoder."))
            and "var_encoder" not in name
            and "num_batches" not in name
        }
        return cls(own, settings)

    def __call__(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return latent means, float64 (n_cells, n_dimensions), of counts, CSR (n_cells, n_genes)."""
        hidden: Any = counts.copy()
        if self.settings["log_variational"]:
            hidden.data = np.log1p(hidden.data)
        for weight, shift in self._layers:
            hidden = np.asarray(hidden @ weight.T) + shift
            if self.settings["layer_norm"]:
                hidden -= hidden.mean(axis=1, keepdims=True)
                hidden /= np.sqrt(hidden.var(axis=1, keepdims=True) + _LAYER_NORM_EPS)
            hidden = np.maximum(hidden, 0)
        weight, shift = self._last
        return hidden @ weight.T + shift

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name, float32."""
        return dict(self._weights)

    def _n_layers(self) -> int:
        found = [re.match(r"encoder\.fc_layers\.Layer (\d+)\.", name) for name in self._weights]
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def _affine(self, prefix: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a layer's linear map with its batch normalisation, if it has one, multiplied in."""
        weight, shift = self._linear(f"{prefix}0.")
        moments = [self._weights.get(f"{prefix}1.{n}") for n in ("running_mean", "running_var")]
        mean, variance = (None if m is None else m.astype(np.float64) for m in moments)
        if mean is None or variance is None:
            return weight, shift
        scale = self._get(f"{prefix}1.weight") / np.sqrt(variance + _BATCH_NORM_EPS)
        return weight * scale[:, None], (shift - mean) * scale + self._get(f"{prefix}1.bias")

    def _linear(self, prefix: str) -> tuple[np.ndarray, np.ndarray]:
        return self._get(f"{prefix}weight"), self._get(f"{prefix}bias")

    def _get(self, name: str) -> np.ndarray:
        if name not in self._weights:
            raise InputError(f"scVI: the weight z_encoder.{name} is missing")
        return self._weights[name].astype(np.float64)


def _batches(batch: np.ndarray, n_cells: int) -> np.ndarray:
    given = np.asarray(batch).astype(str)
    if given.shape != (n_cells,):
        raise InputError(
            f"scVI: found batches of shape {given.shape} for {n_cells:,} cells, expected one batch per cell"
        )
    return given


def _columns(
    counts: sp.csr_matrix,
    vocabulary: GeneVocabulary,
    batch: np.ndarray | None,
    genes: str | Sequence[str] | None,
) -> np.ndarray:
    """Return the columns that the argument `genes` of `ScviEncoder.fit` asks for, sorted."""
    if genes is None:
        return np.arange(len(vocabulary))
    if not isinstance(genes, str):
        return np.flatnonzero(vocabulary.mask(genes))
    asked = re.fullmatch(r"hvg ([1-9]\d*)", genes)
    if not asked:
        raise UsageError(
            f"genes: found {genes!r}, expected 'hvg 2000' or another number of genes, a list of names, or None"
        )
    return _most_variable(counts, batch, int(asked[1]))


def _most_variable(counts: sp.csr_matrix, batch: np.ndarray | None, n: int) -> np.ndarray:
    """Return the `n` most variable columns by scanpy's default (normalised dispersion), or all expressed ones."""
    import pandas as pd
    import scanpy as sc
    import torch
    from anndata import AnnData

    expressed = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel())
    if len(expressed) <= n:
        return expressed
    obs = pd.DataFrame(index=[str(i) for i in range(counts.shape[0])])
    if batch is not None:
        obs["batch"] = pd.Categorical(batch)
    cells = AnnData(counts[:, expressed].astype(np.float32), obs=obs)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # Cells without counts, which are left out later; and pandas' notes on how scanpy uses it.
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        found = sc.pp.highly_variable_genes(
            cells, n_top_genes=n, batch_key=None if batch is None else "batch", inplace=False
        )
    # scanpy's numba kernels set the threads of OpenMP, which PyTorch uses too: training was 20 times slower on cores
    # that others use as well.
    torch.set_num_threads(threads)
    return expressed[np.flatnonzero(found["highly_variable"].to_numpy())]


def _network_settings(path: Path, given: dict[str, Any]) -> dict[str, bool]:
    """Return the settings of `EncoderNetwork` from those of scvi-tools' SCVI.

    Raises
    ------
    InputError
        The latent mean of such a model is something else than `EncoderNetwork` computes.
    """
    if given.get("encode_covariates"):
        raise InputError(
            f"{path}: the model encodes covariates (encode_covariates = True), expected one that places a cell by its "
            "genes alone"
        )
    if given.get("latent_distribution", "normal") != "normal" or given.get("extra_encoder_kwargs"):
        raise InputError(
            f"{path}: the model has another posterior or encoder than scVI's own, expected latent_distribution = "
            "'normal' and no extra_encoder_kwargs"
        )
    return {
        "log_variational": bool(given.get("log_variational", True)),
        "layer_norm": given.get("use_layer_norm", "none") in ("encoder", "both"),
    }
