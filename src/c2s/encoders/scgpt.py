"""scGPT: the space in which the paper measures generated cells, from a published checkpoint folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from c2s.cells.profiles import align_columns
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.config import Config, explain
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.files import sha256
from c2s.common.seeds import cell_keys, mix64

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

Ties = Literal["spread", "one"]

_FILES = ("args.json", "vocab.json", "best_model.pt")
_CLS = "<cls>"
#: Modules of published checkpoints that take no part in placing a cell: decoders of training, and flags of prompts.
_HEADS = (
    "decoder",
    "cls_decoder",
    "mvc_decoder",
    "flag_encoder",
    "batch_encoder",
    "grad_reverse_discriminator",
)


class CellTokens(NamedTuple):
    """One cell as the network reads it, <cls> first and then genes in the order of their tokens.

    Attributes
    ----------
    tokens : int32 array, shape (1 + n_genes,)
    values : float32 array, shape (1 + n_genes,)
        Bins from 1 on; the checkpoint's `pad_value` at <cls>.
    """

    tokens: np.ndarray
    values: np.ndarray


class ScGPTArguments(Config):
    """What is read of a checkpoint's `args.json`; its many other fields are about the training."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    embsize: int = Field(ge=1)
    nheads: int = Field(ge=1)
    d_hid: int = Field(ge=1)
    nlayers: int = Field(ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    n_bins: int = Field(default=51, ge=3)
    pad_token: str = "<pad>"
    pad_value: float = -2
    input_emb_style: Literal["continuous"] = "continuous"
    pre_norm: Literal[False] = False


class ScGPTEncoder:
    """The output of scGPT at its <cls> token, scaled to length 1.

    What a cell goes through is what the package `scgpt` does in `tasks.embed_data`: its expressed genes that the
    checkpoint knows are binned by the cell's own quantiles, from 1 to `n_bins` less one, put after <cls> (genes have no
    positions), and read by the network; the last layer at <cls> is scaled to length 1. Bins depend on the order of a
    cell's values only, so any normalisation gives the same bins. Where the package draws at random, this encoder
    draws from hashes, so that a cell's place is decided by its profile alone:

    - *Equal values* that reach over several bins, as counts of 1 do, are spread evenly over those bins. Each gene has
      one hashed number for that, the same in every cell: equal profiles lie at the same place, and similar ones
      differ by their expression only. ``ties="one"`` puts them all into the highest of these bins.
    - *Too many genes*: of more than `max_length` - 1 expressed genes, so many are drawn after the binning. The draw
      is hashed from the profile, other genes for other cells, as a fixed choice would never show some genes.

    Arithmetic is in float32, without flash-attention; the package uses float16 on GPUs.

    Parameters
    ----------
    network
        `ScGPTNetwork` with its weights.
    arguments
        Of the checkpoint.
    vocab
        Token number of each gene and special token.
    content
        Hash of the checkpoint's files, for `digest`.
    batch_size
        Cells at a time. Cells of like length are taken together.
    max_length
        Tokens of a cell, <cls> among them.
    seed
        Of the hashes.
    normalize
        Scale to length 1, as published.
    ties
        "spread" or "one", see above.

    Raises
    ------
    UsageError
        `batch_size`, `max_length` or `ties` cannot work.
    InputError
        The vocabulary lacks <cls> or padding.

    See Also
    --------
    ScGPTEncoder.from_folder : reads a checkpoint.

    References
    ----------
    SPEC §14.3 (CLS, 512 dimensions). Cui et al. 2024, "scGPT: toward building a foundation model for single-cell
    multi-omics using generative AI", Nature Methods 21:1470.

    Examples
    --------
    >>> encoder = ScGPTEncoder.from_folder("scGPT_human")  # doctest: +SKIP
    >>> encoder.encode(expression, vocabulary).shape  # doctest: +SKIP
    (1937, 512)
    """

    name = "scgpt"

    network: torch.nn.Module

    def __init__(
        self,
        network: torch.nn.Module,
        arguments: ScGPTArguments,
        vocab: dict[str, int],
        content: str,
        *,
        batch_size: int = 64,
        max_length: int = 1200,
        seed: int = 0,
        normalize: bool = True,
        ties: Ties = "spread",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size: found {batch_size}, expected at least 1")
        if max_length < 2:
            raise UsageError(
                f"max_length: found {max_length}, expected at least 2, <cls> and a gene"
            )
        if ties not in ("spread", "one"):
            raise UsageError(f"ties: found {ties!r}, expected 'spread' or 'one'")
        self.network, self.arguments = network, arguments
        self.batch_size, self.max_length, self.seed = int(batch_size), int(max_length), int(seed)
        self.normalize, self.ties = bool(normalize), ties
        self._content = content
        self._cls, self._pad = (_token(vocab, t) for t in (_CLS, arguments.pad_token))
        genes = [word for word in vocab if not (word.startswith("<") and word.endswith(">"))]
        self._known = GeneVocabulary(genes)
        self._gene_tokens = np.array([vocab[gene] for gene in genes], dtype=np.int32)
        self._gene_keys = cell_keys(self._known.words, self.seed)

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        batch_size: int = 64,
        max_length: int = 1200,
        seed: int = 0,
        normalize: bool = True,
        ties: Ties = "spread",
    ) -> ScGPTEncoder:
        """Read a checkpoint as scGPT's authors publish them.

        Parameters
        ----------
        path
            Folder with `args.json`, `vocab.json` and `best_model.pt`. Weights are read as tensors only: a pickle
            that asks for anything else is refused. Attention weights may have the names of flash-attention.
        device
            Where the network runs, by default a GPU where there is one.
        batch_size, max_length, seed, normalize, ties
            As for the class.

        Raises
        ------
        InputError
            A file is missing or damaged, or the weights are not those that `args.json` and `vocab.json` describe.
        UsageError
            The device is not there, or an argument cannot work.
        """
        from c2s.models.directory import resolve_device

        folder = Path(path)
        absent = [name for name in _FILES if not (folder / name).is_file()]
        if absent:
            raise InputError(
                f"{folder}: found no {listing(absent)}, expected a scGPT checkpoint folder with {listing(_FILES)}"
            )
        arguments, vocab = _read_arguments(folder / "args.json"), _read_vocab(folder / "vocab.json")
        network = _load_network(folder / "best_model.pt", arguments, vocab)
        content = " ".join(sha256(folder / name) for name in _FILES)
        return cls(
            network.to(resolve_device(device)),
            arguments,
            vocab,
            content,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            normalize=normalize,
            ties=ties,
        )

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the space: 512 in published checkpoints."""
        return self.arguments.embsize

    def encode(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return the places of cells, float64 (n_cells, n_dimensions); see `CellEncoder.encode`.

        A cell's place does not depend on the other cells, nor on the order of genes (up to rounding).

        Raises
        ------
        InputError
            No gene in common; a cell without any expressed gene that scGPT knows; NaN, infinite or negative values.
        """
        import torch

        inputs = self.prepare(expression, vocabulary)
        order = np.argsort([len(cell.tokens) for cell in inputs], kind="stable")
        points = np.empty((len(inputs), self.n_dimensions))
        was_training = self.network.training
        self.network.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                with torch.inference_mode():
                    points[rows] = self.forward([inputs[row] for row in rows]).cpu().numpy()
        finally:
            self.network.train(was_training)
        return points / np.linalg.norm(points, axis=1, keepdims=True) if self.normalize else points

    def prepare(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> list[CellTokens]:
        """Return the tokens and bins of each cell; parameters and errors as `encode`."""
        aligned = self._expressed(expression, vocabulary)
        return [
            self._tokens(aligned.indices[start:stop], aligned.data[start:stop])
            for start, stop in pairwise(aligned.indptr)
        ]

    def forward(self, inputs: Sequence[CellTokens]) -> torch.Tensor:
        """Return the places of prepared cells before the scaling to length 1; see `TrainableEncoder.forward`."""
        import torch

        longest = max(len(cell.tokens) for cell in inputs)
        tokens = np.full((len(inputs), longest), self._pad, dtype=np.int64)
        values = np.full((len(inputs), longest), self.arguments.pad_value, dtype=np.float32)
        for row, cell in enumerate(inputs):
            tokens[row, : len(cell.tokens)] = cell.tokens
            values[row, : len(cell.values)] = cell.values
        device = next(self.network.parameters()).device
        return self.network(
            torch.from_numpy(tokens).to(device), torch.from_numpy(values).to(device)
        )

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of the checkpoint's files and of the parameters that place a cell."""
        settings = (self.name, self.max_length, self.seed, self.normalize, self.ties)
        return hashlib.sha256(f"{settings} {self._content}".encode()).hexdigest()

    def _expressed(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> sp.csr_matrix:
        """Return the values above 0 of known genes, columns in the order of `_known`."""
        import scipy.sparse as sp

        given = sp.csr_matrix(expression)
        if not np.isfinite(given.data).all() or (given.data < 0).any():
            raise InputError(
                f"{self.name}: the matrix holds NaN, infinite or negative values, expected log10-normalised expression"
            )
        aligned = sp.csr_matrix(align_columns(self.name, given, vocabulary, self._known), copy=True)
        aligned.eliminate_zeros()
        aligned.sort_indices()
        empty = np.flatnonzero(np.diff(aligned.indptr) == 0)
        if len(empty):
            raise InputError(
                f"{self.name}: {len(empty):,} of {aligned.shape[0]:,} cells have no expressed gene that the encoder "
                f"knows (the first is row {empty[0]}), and so no place; leave them out"
            )
        return aligned

    def _tokens(self, genes: np.ndarray, values: np.ndarray) -> CellTokens:
        """Return one cell's tokens; `genes` are columns of `_known`, in rising order."""
        keys = self._gene_keys[genes]
        # 53 bits of the hash: an evenly distributed number of [0, 1).
        draws = (keys >> np.uint64(11)) * 2.0**-53 if self.ties == "spread" else None
        bins = quantile_bins(values, self.arguments.n_bins, draws)
        room = self.max_length - 1
        if len(genes) > room:
            # A sum does not depend on the order of genes. Bins stand for values, whatever their units.
            profile = mix64(keys ^ bins.astype(np.uint64)).sum(dtype=np.uint64)
            order = mix64(keys ^ mix64(profile[None]))
            kept = np.sort(np.argpartition(order, room)[:room])
            genes, bins = genes[kept], bins[kept]
        return CellTokens(
            np.concatenate([[self._cls], self._gene_tokens[genes]]).astype(np.int32),
            np.concatenate([[self.arguments.pad_value], bins]).astype(np.float32),
        )


def quantile_bins(values: np.ndarray, n_bins: int, draws: np.ndarray | None = None) -> np.ndarray:
    """Return the bin of each expressed value of one cell, as scGPT bins them.

    The edges are `n_bins` - 1 evenly spaced quantiles of the values (linear between neighbours, the first is the
    smallest value and the last the largest). A value's bin is the number of edges that are not above it. A value that
    equals several edges may be in any of several bins.

    Parameters
    ----------
    values : array, shape (n,)
        Above 0, n ≥ 1. Only their order matters.
    n_bins
        Bins with that of zero, which no expressed value is in; published checkpoints have 51.
    draws : float array, shape (n,), optional
        Numbers of [0, 1), one a value: which of its possible bins a value is in. By default the highest.

    Returns
    -------
    int64 array, shape (n,)
        From 1 to `n_bins` - 1.

    Notes
    -----
    Edges are compared through ranks, as exact fractions: the package's are rounded, so that now and then an edge
    that is a value lies beside it.

    Examples
    --------
    >>> quantile_bins(np.array([1.0, 1, 1, 2, 4]), n_bins=6)
    array([3, 3, 3, 4, 5])
    >>> quantile_bins(np.array([1.0, 1, 1, 2, 4]), n_bins=6, draws=np.array([0, 0.4, 0.9, 0.5, 0.5]))
    array([3, 2, 1, 4, 5])
    """
    ordered = np.sort(values)
    # Edge j lies at rank j (n - 1) / (n_bins - 2), and a value is above it if it is above the rank below, and not
    # below it if it is not below the rank above.
    rank, rest = np.divmod(np.arange(n_bins - 1) * (len(values) - 1), n_bins - 2)
    highest = np.searchsorted(ordered[rank + (rest > 0)], values, side="right")
    if draws is None:
        return highest
    above = np.searchsorted(ordered[rank], values, side="left")
    return highest - np.floor(draws * (highest - above)).astype(np.int64)


def _token(vocab: dict[str, int], token: str) -> int:
    if token not in vocab:
        raise InputError(
            f"vocab.json lacks the token {token!r}, expected that of a scGPT checkpoint"
        )
    return vocab[token]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a JSON {type(content).__name__}, expected an object")
    return content


def _read_arguments(path: Path) -> ScGPTArguments:
    try:
        arguments = ScGPTArguments.model_validate(_read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, ScGPTArguments)}") from error
    if arguments.embsize % arguments.nheads:
        raise InputError(
            f"{path}: found embsize {arguments.embsize} and nheads {arguments.nheads}, expected a multiple"
        )
    return arguments


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = _read_json(path)
    numbers = [n for n in vocab.values() if isinstance(n, int)]
    if len(numbers) < len(vocab) or sorted(numbers) != list(range(len(vocab))):
        raise InputError(
            f"{path}: expected genes with the numbers 0 to {len(vocab) - 1:,}, each once"
        )
    return vocab


def _load_network(path: Path, arguments: ScGPTArguments, vocab: dict[str, int]) -> torch.nn.Module:
    """Return the network with the weights of the file, on the CPU, not training."""
    import torch

    from c2s.encoders.scgpt_network import ScGPTNetwork

    # The weights that it starts with are random and replaced.
    with torch.random.fork_rng(devices=[]):
        network = ScGPTNetwork(
            n_tokens=len(vocab),
            n_dimensions=arguments.embsize,
            n_heads=arguments.nheads,
            n_hidden=arguments.d_hid,
            n_layers=arguments.nlayers,
            dropout=arguments.dropout,
            pad_id=_token(vocab, arguments.pad_token),
        )
    wanted = network.state_dict()
    weights = {
        name.replace("Wqkv.", "in_proj_"): tensor
        for name, tensor in _read_weights(path).items()
        if name.split(".")[0] not in _HEADS
    }
    missing, unknown = (
        sorted(wanted.keys() - weights.keys()),
        sorted(weights.keys() - wanted.keys()),
    )
    if missing or unknown:
        found = [
            f"{what} {listing(names, 3)}"
            for what, names in (("lacks", missing), ("has also", unknown))
            if names
        ]
        raise InputError(
            f"{path}: {' and '.join(found)}; expected the weights that args.json describes"
        )
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} has the shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)} by "
                "args.json and vocab.json"
            )
    network.load_state_dict(weights)
    return network.eval()


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        # Files of PyTorch before 1.6 are no archives, and cannot be mapped.
        weights = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, and running a pickle's code is refused; save its state_dict() alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(f"{path}: cannot be read as PyTorch weights ({reason})") from error
    if not isinstance(weights, dict) or not all(
        isinstance(t, torch.Tensor) for t in weights.values()
    ):
        raise InputError(f"{path}: expected a table of names and tensors, as state_dict() gives it")
    return weights
