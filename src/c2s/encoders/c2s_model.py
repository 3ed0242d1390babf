"""A C2S model as an encoder: the mean of its last hidden states over the annotation prompt (SPEC §8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from c2s.cells.checks import check_expression
from c2s.cells.profiles import align_columns
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.progress import progress_bar
from c2s.common.seeds import mix64
from c2s.decoding.engine import Progress, TransformersEngine
from c2s.decoding.prompts import as_known, label_segments, only_known
from c2s.encoders.weights import hash_weights
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    import scipy.sparse as sp

    from c2s.models.directory import Model


#: What an embedding is the mean over: all tokens of the prompt, or those of the cell's genes.
EmbeddedTokens = Literal["prompt", "cell"]


def check_tokens(tokens: str) -> None:
    """Refuse a choice of tokens that is not known.

    Raises
    ------
    UsageError
        `tokens` is neither "prompt" nor "cell".
    """
    if tokens not in get_args(EmbeddedTokens):
        raise UsageError(f"tokens={tokens!r} is unknown; use 'prompt' or 'cell'")


def embed_ranked(
    model: Model,
    cells: RankedCells,
    texts: Mapping[str, np.ndarray],
    batch_size: int | None = None,
    top_k: int | None = None,
    *,
    tokens: EmbeddedTokens = "prompt",
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the mean of the last hidden states over the annotation prompt of each cell (SPEC §8).

    Padding never enters, so a cell's embedding does not depend on its batch (up to rounding).

    Parameters
    ----------
    model
        Any model; it need not be fine-tuned.
    cells
        Ranked in the model's own gene columns.
    texts
        Of each condition of the prompt a text a cell, object arrays of shape (n_cells,).
    batch_size
        Prompts at a time; by default as `TransformersEngine` takes it.
    top_k
        Genes a cell that were asked for, by default as many as the model was trained on.
    tokens
        Mean over all tokens of the prompt, or over those of the cell's genes (`CellTokenizer.encode_with_genes`).
    progress
        Told how many cells are done.

    Returns
    -------
    float32 array, shape (n_cells, hidden)
        A cell without genes is NaN.

    Raises
    ------
    UsageError
        `tokens` is neither "prompt" nor "cell", or a prompt is longer than the model's context.
    """
    check_tokens(tokens)
    rows = np.flatnonzero(cells.lengths > 0)
    segments = label_segments(model, CELL_TYPE, cells, texts, rows, top_k=top_k)
    over = None
    if tokens == "cell":
        encoded = [model.encode_prompt_with_genes(parts) for parts in segments]
        prompts, over = [ids for ids, _ in encoded], [gene >= 0 for _, gene in encoded]
    else:
        prompts = [model.encode_prompt(parts) for parts in segments]
    embedded = TransformersEngine(model, batch_size).embed(prompts, progress, over)
    result = np.full((len(cells), embedded.shape[1]), np.nan, dtype=np.float32)
    result[rows] = embedded
    return result


class C2SEncoder:
    """Cells as points of a C2S model's hidden states, as `c2s.tl.embed` computes them.

    Expression is ranked among the model's genes, and the annotation prompt of the sentence is embedded. Expression
    that was reconstructed from a sentence falls strictly along it, so ranking gives the sentence back and the place is
    that of the sentence itself.

    Parameters
    ----------
    model
        As `c2s.load_model` gives it; it need not be fine-tuned.
    organism
        What the prompt says; by default the only one that the model knows.
    top_k
        Genes a cell; by default as many as the model was trained on.
    batch_size
        Prompts at a time; by default as `TransformersEngine` takes it.
    seed
        Of the order of genes with equal expression; see `encode`.

    Raises
    ------
    UsageError
        The model knows several organisms and none is given; `top_k` is below 1.

    Examples
    --------
    >>> encoder = C2SEncoder(c2s.load_model("model"))  # doctest: +SKIP
    >>> encode_cells(encoder, expression, vocabulary).points.shape  # doctest: +SKIP
    (1937, 256)
    """

    name = "c2s"

    def __init__(
        self,
        model: Model,
        *,
        organism: str | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k: found {top_k}, expected at least 1")
        self.model = model
        self.top_k = model.card.top_k if top_k is None else int(top_k)
        self.batch_size = batch_size
        self.seed = int(seed)
        self._latest: Model | None = (
            None  # a released checkpoint with the genes of the latest cells
        )
        self._texts = {c: _condition(model, c, organism) for c in CELL_TYPE.conditions}

    @property
    def n_dimensions(self) -> int:
        """Dimensions of the space: the width of the model."""
        return int(self.model.network.config.hidden_size)

    def encode(
        self,
        expression: sp.csr_matrix,
        vocabulary: GeneVocabulary,
        cell_ids: Sequence[str] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the places of cells; see `CellEncoder.encode`.

        Parameters
        ----------
        expression, vocabulary
            As in `CellEncoder.encode`.
        cell_ids
            Names of the cells; with the seed they order genes of equal expression, as in `c2s.tl.embed`. Without
            names a hash of the cell's own values does, so that its place depends neither on its row nor on others.

        Raises
        ------
        InputError
            The cells share no gene with the model, one expresses none of its genes, or the matrix holds NaN, infinite
            or negative values.
        """
        model = self._opened(vocabulary)
        known = model.vocabulary
        aligned = align_columns(self.name, expression, vocabulary, known)
        check_expression(
            aligned,
            cell_ids=pd.RangeIndex(aligned.shape[0]),
            gene_names=known.words,
            source=self.name,
        )
        ids = _content_ids(aligned, known) if cell_ids is None else cell_ids
        cells = rank_matrix(aligned, known, ids, top_k=self.top_k, seed=self.seed)
        empty = np.flatnonzero(cells.lengths == 0)
        if len(empty):
            raise InputError(
                f"{self.name}: {len(empty):,} cells express none of the model's genes (the first in row {empty[0]:,}); "
                "leave them out"
            )
        texts = {
            name: np.full(len(cells), text, dtype=object) for name, text in self._texts.items()
        }
        with progress_bar("Embedding", len(cells)) as progress:
            found = embed_ranked(
                model, cells, texts, self.batch_size, self.top_k, progress=progress
            )
        return found.astype(np.float64)

    def _opened(self, vocabulary: GeneVocabulary) -> Model:
        """Return the model; a released checkpoint, which takes any gene symbol, with the genes of the cells."""
        if not self.model.any_gene:
            return self.model
        if self._latest is None or self._latest.vocabulary != vocabulary:
            self._latest = self.model.with_genes(vocabulary)
        return self._latest

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of the weights, the genes, the tokenizer, the prompt and the parameters."""
        model = self.model
        settings = {
            "name": self.name,
            "prompt": model.prompts.wording(CELL_TYPE.id).prompts[0].text,
            "texts": self._texts,
            "top_k": self.top_k,
            "seed": self.seed,
        }
        if model.card.released is not None:
            settings["released"] = model.card.released.model_dump()
        return _digest(model, settings)


def model_digest(model: Model) -> str:
    """Return a SHA-256 (hexadecimal) of all of a model that decides its answers: weights, tokenizer, card, wording.

    Weights that are not in memory, or do not fit there at once (`device_map`), are known by the files that they come
    from.
    """
    settings = {"card": model.card.model_dump(), "wording": model.prompts.texts()}
    if not model.has_network and model.files is not None:
        folder, dtype = model.files.folder, model.files.dtype
    elif any(weight.is_meta for weight in model.network.parameters()):
        folder, dtype = Path(model.network.name_or_path), str(model.network.dtype)
    else:
        return _digest(model, settings)
    facts = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.glob("*.safetensors"))
    ]
    where = {"source": model.source, "dtype": dtype, "files": facts}
    return _digest(model, {**settings, **where}, weights=False)


def _digest(model: Model, settings: Mapping[str, object], *, weights: bool = True) -> str:
    """Return a SHA-256 of the weights, the genes, the tokenizer and settings."""
    content = hashlib.sha256(
        json.dumps(
            {
                **settings,
                "words": model.vocabulary.words,
                "mode": model.tokenizer.mode,
                "tokenizer": model.tokenizer.backend.backend_tokenizer.to_str(),
            },
            sort_keys=True,
        ).encode()
    )
    if weights:
        hash_weights(content, model.network)
    return content.hexdigest()


def _condition(model: Model, condition: str, value: str | None) -> str:
    """Return what the prompt says of a condition."""
    text = only_known(model, condition) if value is None else as_known(model, condition, value)
    if text is None:
        raise UsageError(
            f"the model's prompt names the {condition}; give {condition}=… "
            f"(known: {listing(model.known(condition)) or 'none'})"
        )
    return text


def _content_ids(matrix: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
    """Return a name for each cell that depends on its (gene, value) pairs alone; shape (n_cells,)."""
    values = np.asarray(matrix.data, dtype=np.float32)
    pairs = mix64(
        vocabulary.keys()[matrix.indices] ^ mix64(values.view(np.uint32).astype(np.uint64))
    )
    # Sums modulo 2^64, so that the order of the pairs does not matter; stored zeros are no pairs.
    pairs[values == 0] = 0
    until = np.concatenate([np.zeros(1, np.uint64), np.cumsum(pairs, dtype=np.uint64)])
    sums = until[matrix.indptr[1:]] - until[matrix.indptr[:-1]]
    return np.array([f"{each:016x}" for each in sums.tolist()], dtype=object)
