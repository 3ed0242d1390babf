"""Geneformer from a local folder: cells as genes ranked by their expression over the gene's median."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.checks import ABUNDANCE_FLOOR, check_expression
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.common.progress import progress_bar
from c2s.common.transformers_log import quiet_transformers
from c2s.encoders.geneformer_genes import GeneformerGenes, read_genes
from c2s.encoders.weights import hash_weights
from c2s.models.directory import resolve_device

if TYPE_CHECKING:
    import torch
    from transformers import BertModel

#: How the states of a sequence become one point: their mean over its genes, or the state of <cls>.
Pooling = Literal["mean", "cls"]

_FEWEST_SHARED = 0.5  # below this share of the smaller gene list, the user hears of it


class GeneformerEncoder:
    """Cells as points of Geneformer's hidden states; made by `from_folder`.

    A cell is the list of its expressed genes by falling expression (counts per 10,000) over the gene's median in the
    pretraining corpus, cut at as many as the model reads; models of the V2 series have it between <cls> and <eos>. The
    published tokenizer leaves the order of equal values open; here they stand in the order of their token ids. A
    cell's place depends on nothing but the cell (up to rounding of the network's arithmetic).

    Parameters
    ----------
    network
        Its layers up to the one that is read.
    genes
        The dictionaries.
    pooling
        "mean" over the genes, or "cls", the state of the first token.
    batch_size
        Cells at a time; by default as many as hold about 16,000 tokens on a CPU, 64,000 on a GPU.

    Raises
    ------
    UsageError
        "cls" for a model without such a token; a batch size below 1.

    References
    ----------
    Theodoris et al. 2023, Nature 618:616 (V1: sequences of up to 2,048 genes); Chen et al. 2024,
    doi:10.1101/2024.08.16.608180 (V2: up to 4,096, with <cls> and <eos>).

    Examples
    --------
    >>> encoder = GeneformerEncoder.from_folder("Geneformer/Geneformer-V2-104M")  # doctest: +SKIP
    >>> encode_cells(encoder, expression, vocabulary).points.shape  # doctest: +SKIP
    (1937, 768)
    """

    name = "geneformer"

    def __init__(
        self,
        network: BertModel,
        genes: GeneformerGenes,
        *,
        pooling: Pooling,
        batch_size: int | None = None,
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise UsageError(f"pooling: found {pooling!r}, expected 'mean' or 'cls'")
        if pooling == "cls" and not genes.has_special:
            raise UsageError(
                "pooling: found 'cls', and the model has no token <cls> (V1 series); use 'mean'"
            )
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size: found {batch_size}, expected at least 1")
        self.network: torch.nn.Module = network
        self.genes = genes
        self.pooling = pooling
        self.batch_size = batch_size
        self.max_tokens = int(network.config.max_position_embeddings)
        self._n_dimensions = int(network.config.hidden_size)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        dictionaries: str | Path | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        layer: int = -2,
        pooling: Pooling | None = None,
    ) -> GeneformerEncoder:
        """Read a published model from its folder. Nothing is downloaded, and no code of the folder is run.

        Weights are read from safetensors, or from ``pytorch_model.bin`` as tensors only where there are none. The
        published dictionaries are pickles; they are read as data, without running what they say: texts and numbers
        are taken, and a file that names anything else is refused. A .json file of the same stem is taken first.

        Parameters
        ----------
        path
            Folder with config.json and weights of a `BertForMaskedLM` or `BertForSequenceClassification`, such as
            ``Geneformer-V1-10M`` or ``Geneformer-V2-104M`` of the published repository.
        dictionaries
            Folder with ``token_dictionary*.pkl``, ``gene_median_dictionary*.pkl`` and, if there are any,
            ``gene_name_id_dict*.pkl`` (from symbols) and ``ensembl_mapping_dict*.pkl`` (from retired ids). By default
            the model's folder, or where the published repository has them. They are taken by the number of tokens.
        device
            "cpu", "cuda" or "mps"; by default "cuda" where there is a GPU, else "cpu".
        batch_size
            As in the class.
        layer
            Whose output is read: −1 is the last, −2 the one before, which the authors take for embeddings
            (their ``emb_layer=-1``); or from 1.
        pooling
            As in the class. By default as published: "cls" for models with that token (V2), else "mean" (V1).

        Raises
        ------
        InputError
            The folder has no such model or dictionaries, or they cannot be read.
        UsageError
            There is no such layer, pooling or device.
        """
        folder = Path(path)
        network = _keep_layers(_read_network(folder), layer)
        genes = read_genes(
            folder, network.config.vocab_size, Path(dictionaries) if dictionaries else None
        )
        return cls(
            network.to(resolve_device(device)).float().eval(),
            genes,
            pooling=pooling or ("cls" if genes.has_special else "mean"),
            batch_size=batch_size,
        )

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the space: the width of the network."""
        return self._n_dimensions

    def encode(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return the places of cells; see `CellEncoder.encode`.

        Raises
        ------
        InputError
            A cell expresses none of the model's genes, or the matrix holds values that are no log10(1 + CP10k).
        """
        import torch

        inputs = self.prepare(expression, vocabulary)
        points = np.empty((len(inputs), self.n_dimensions))
        was_training = self.network.training
        self.network.eval()
        try:
            with progress_bar("Geneformer", len(inputs)) as progress, torch.inference_mode():
                for rows in self._batches(inputs):
                    points[rows] = self.forward([inputs[row] for row in rows]).cpu().numpy()
                    progress(len(rows))
        finally:
            self.network.train(was_training)
        return points

    def prepare(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> list[np.ndarray]:
        """Return the token ids of each cell, int32 arrays of shape (n_tokens,), as the published tokenizer makes them.

        Columns that are the same gene are added up.

        Raises
        ------
        InputError
            As `encode`.
        """
        ratios, tokens = self._over_medians(expression, vocabulary)
        rows = np.repeat(np.arange(ratios.shape[0]), np.diff(ratios.indptr))
        # Columns are in the order of token ids, so that they decide between equal values.
        order = np.lexsort((ratios.indices, -ratios.data, rows))
        ranked = tokens[ratios.indices[order]].astype(np.int32)
        before, behind = (
            ([self.genes.tokens["<cls>"]], [self.genes.tokens["<eos>"]])
            if self.genes.has_special
            else ([], [])
        )
        most = self.max_tokens - len(before) - len(behind)
        return [
            np.concatenate([before, ranked[start:stop][:most], behind]).astype(np.int32)
            for start, stop in zip(ratios.indptr[:-1], ratios.indptr[1:], strict=True)
        ]

    def forward(self, inputs: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the places of prepared cells, with gradient; see `TrainableEncoder.forward`."""
        import torch

        lengths = [len(tokens) for tokens in inputs]
        ids = np.full((len(inputs), max(lengths)), self.genes.tokens["<pad>"], dtype=np.int64)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = tokens
        device = next(self.network.parameters()).device
        position = torch.arange(ids.shape[1], device=device)
        length = torch.tensor(lengths, device=device)[:, None]
        states = self.network(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=(position < length).long(),
        ).last_hidden_state  # (batch, length, hidden)
        if self.pooling == "cls":
            return states[:, 0]
        edge = int(self.genes.has_special)
        of_genes = ((position >= edge) & (position < length - edge)).to(states.dtype)[..., None]
        return (states * of_genes).sum(1) / of_genes.sum(1)

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of the weights that are used, the dictionaries and the pooling."""
        content = hashlib.sha256(f"{self.name} {self.pooling} {self.max_tokens}".encode())
        content.update(self.genes.digest())
        hash_weights(content, self.network)
        return content.hexdigest()

    def _over_medians(
        self, expression: sp.csr_matrix, vocabulary: GeneVocabulary
    ) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return counts per 10,000 over medians, shape (n_cells, n_known), and the token ids of the columns, rising."""
        if expression.shape[1] != len(vocabulary):
            raise InputError(
                f"{self.name}: found {expression.shape[1]:,} columns and {len(vocabulary):,} gene names, expected as "
                "many"
            )
        columns, of_columns, medians = self.genes.find(vocabulary)
        n_known = sum(map(self.genes.known, self.genes.medians))
        if len(columns) == 0:
            raise InputError(
                f"{self.name}: none of the {len(vocabulary):,} genes of the cells ({listing(vocabulary.words, 3)}) is "
                f"among the {n_known:,} of the model; are they symbols or Ensembl ids of its species?"
            )
        if len(columns) < _FEWEST_SHARED * min(len(vocabulary), n_known):
            warn(
                f"{self.name}: only {len(columns):,} of the {len(vocabulary):,} genes of the cells are among the "
                f"{n_known:,} of the model"
            )
        tokens, target = np.unique(of_columns, return_inverse=True)
        adder = sp.csr_matrix(
            (1 / medians, (columns, target)), shape=(len(vocabulary), len(tokens))
        )
        ratios = sp.csr_matrix(_per_10_000(expression, vocabulary) @ adder)
        ratios.eliminate_zeros()
        empty = np.flatnonzero(np.diff(ratios.indptr) == 0)
        if len(empty):
            raise InputError(
                f"{self.name}: {len(empty):,} cells express none of the model's genes (the first in row {empty[0]:,}); "
                "leave them out"
            )
        return ratios, tokens

    def _batches(self, inputs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield rows of cells of like length, the longest first: what does not fit into memory fails at once."""
        lengths = np.array([len(tokens) for tokens in inputs], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        device = next(self.network.parameters()).device
        budget = 64_000 if device.type == "cuda" else 16_000
        start = 0
        while start < len(order):
            size = self.batch_size or max(1, budget // int(lengths[order[start]]))
            yield order[start : start + size]
            start += size


def _per_10_000(expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> sp.csr_matrix:
    """Undo the logarithm of log10(1 + CP10k). float64."""
    check_expression(
        expression,
        cell_ids=pd.RangeIndex(expression.shape[0]),
        gene_names=vocabulary.words,
        source="geneformer",
    )
    linear = sp.csr_matrix(expression, dtype=np.float64, copy=True)
    highest = linear.data.max(initial=0)
    if highest >= ABUNDANCE_FLOOR:
        raise InputError(
            f"geneformer: found a value of {highest:.6g}, expected log10(1 + counts per 10,000), at most about 4; "
            "normalise the counts first"
        )
    linear.data = np.expm1(linear.data * math.log(10))
    return linear


def _read_network(folder: Path) -> BertModel:
    """Read the encoder of a BERT, without the head that it was trained with."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, BertModel

    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one with a Geneformer model")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.model_type != "bert":
            raise InputError(
                f"{folder}: found a model of type {config.model_type!r}, expected 'bert'"
            )
        with quiet_transformers():
            network, loaded = BertModel.from_pretrained(
                folder,
                config=config,
                add_pooling_layer=False,
                local_files_only=True,
                weights_only=True,
                ignore_mismatched_sizes=True,  # found below, by name
                output_loading_info=True,
            )
    except InputError:
        raise
    except (
        OSError, ValueError, KeyError, RuntimeError, TypeError, UnpicklingError, SafetensorError
    ) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{folder}: cannot be read as a Geneformer model ({reason}); expected config.json and model.safetensors"
        ) from error
    # transformers would fill these with random numbers.
    unfit = sorted({*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])})
    if unfit:
        raise InputError(
            f"{folder}: {len(unfit):,} weights are missing or of another shape than config.json says "
            f"({listing(unfit, 2)}); the folder is damaged, download it anew"
        )
    return network


def _keep_layers(network: BertModel, layer: int) -> BertModel:
    """Drop the layers behind the one that is read, so that the output of the network is that layer's."""
    n_layers = len(network.encoder.layer)
    number = layer if layer > 0 else n_layers + 1 + layer
    if not 1 <= number <= n_layers:
        raise UsageError(
            f"layer: found {layer}, expected 1 to {n_layers}, or −1 (the last) to −{n_layers}"
        )
    network.encoder.layer = network.encoder.layer[:number]
    network.config.num_hidden_layers = number
    return network
