"""Cell embeddings: mean of the last hidden states over the annotation prompt (SPEC §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from c2s.analysis.cells import (
    cells_for_model,
    claim,
    condition_texts,
    opened_for,
    record,
    target,
)
from c2s.encoders.c2s_model import embed_ranked
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    adata: AnnData,
    model: Model,
    *,
    key_added: str = "X_c2s",
    organism: str | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Write an embedding of every cell to `obsm["X_c2s"]`.

    The prompt is the one for annotation, and the embedding is the mean of the last layer's hidden states
    over all its tokens (SPEC §8). Padding never enters, so a cell's embedding does not depend on its batch.

    Parameters
    ----------
    adata, organism, top_k, genes, layer, gene_names, batch_size, seed, copy
        As in `annotate`.
    model
        Any model; it need not be fine-tuned.
    key_added
        Name in `obsm`: float32, shape (n_cells, hidden). A cell without any known gene is NaN.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    """
    adata = target(adata, copy)
    claim(adata, "embed", "obsm", key_added)
    model = opened_for(adata, model, layer=layer, gene_names=gene_names)
    cells = cells_for_model(
        adata, model, top_k=top_k, genes=genes, layer=layer, seed=seed, gene_names=gene_names
    )
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    adata.obsm[key_added] = embed_ranked(model, cells, texts, batch_size, top_k)
    top_k = model.card.top_k if top_k is None else top_k
    record(
        adata, "embed", model.source, {"top_k": top_k, "layer": layer, "seed": seed}, [key_added]
    )
    return adata if copy else None
