"""Cell embeddings: mean of the last hidden states over the annotation prompt (SPEC §8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from c2s.analysis.cells import ModelCells, Rows, asked_with, condition_texts, opened_for, target
from c2s.analysis.work import CHUNK, Columns, fill
from c2s.cells.sentences import unique_cell_ids
from c2s.encoders.c2s_model import EmbeddedTokens, check_tokens, embed_ranked
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    adata: AnnData,
    model: Model,
    *,
    key_added: str = "X_c2s",
    tokens: EmbeddedTokens = "prompt",
    organism: str | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    chunk_size: int = CHUNK,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Write an embedding of every cell to `obsm["X_c2s"]`.

    The prompt is the one for annotation, and the embedding is the mean of the last layer's hidden states
    over all its tokens (SPEC §8), or over those of the cell. Padding never enters, so a cell's embedding does not
    depend on its batch.

    Parameters
    ----------
    adata, organism, top_k, genes, layer, gene_names, batch_size, chunk_size, seed, copy
        As in `annotate`.
    model
        Any model; it need not be fine-tuned.
    key_added
        Name in `obsm`: float32, shape (n_cells, hidden). A cell without any known gene is NaN.
    tokens
        What is averaged: "prompt", all tokens; or "cell", those of the cell's genes with the spaces in front of them,
        so that the words around them count only in so far as genes behind them see them.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    UsageError
        A parameter cannot work, or the key holds something else.

    See Also
    --------
    c2s.tl.embed_file : from file to file, for data of any size.
    """
    adata = target(adata, copy)
    work = Embedding(
        Rows.of(adata, layer), model, key_added=key_added, tokens=tokens, organism=organism, top_k=top_k,
        genes=genes, gene_names=gene_names, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    fill(adata, work, chunk_size)
    return adata if copy else None


class Embedding:
    """Embedding as `Work`; parameters are those of `embed`.

    Raises
    ------
    InputError, UsageError
        As `embed`.
    """

    verb, title, passes = "embed", "Embedding", 1

    def __init__(
        self,
        rows: Rows,
        model: Model,
        *,
        key_added: str = "X_c2s",
        tokens: EmbeddedTokens = "prompt",
        organism: str | None = None,
        top_k: int | None = None,
        genes: Sequence[str] | str | None = None,
        gene_names: Mapping[str, str] | str | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_tokens(tokens)
        unique_cell_ids(rows.obs.index)
        model = opened_for(rows.var, model, gene_names)
        self.rows, self.model, self.key, self.tokens = rows, model, key_added, tokens
        self.batch_size, self.seed = batch_size, seed
        self.slots = {"obs": [], "obsm": [key_added]}
        self._cells = ModelCells(rows.var, model, top_k=top_k, genes=genes, gene_names=gene_names)
        self._texts = condition_texts(rows, model, CELL_TYPE, {"organism": organism})
        self.parameters = {
            "top_k": self._cells.top_k, "layer": rows.layer, "seed": seed,
            "tokens": None if tokens == "prompt" else tokens,
            **asked_with(self._texts, genes, gene_names),
        }  # fmt: skip
        self._further = {"gene_names": gene_names, "keys": self.slots}

    def options(self) -> dict[str, Any]:
        """Return every parameter that decides where a cell lies, by name."""
        return {**self.parameters, **self._further}

    def columns(
        self, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> Columns:
        """Return the embeddings of the cells in rows `start` to `stop`."""
        cells = self._cells.rank(self.rows, start, stop, self.seed)
        texts = {name: column[start:stop] for name, column in self._texts.items()}
        found = embed_ranked(
            self.model,
            cells,
            texts,
            self.batch_size,
            self._cells.top_k,
            tokens=self.tokens,
            progress=progress,
        )
        obs = pd.DataFrame(index=self.rows.obs.index[start:stop])
        return Columns(obs, {self.key: found}, cells.lengths == 0)

    def close(self) -> None:
        """Give back nothing: the network stays with its model."""
