"""Cells placed by any encoder: principal components, scVI, scGPT, Geneformer, a C2S model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2s.analysis.cells import claim, record, target
from c2s.cells.profiles import profiles
from c2s.encoders.base import CellEncoder, encode_cells
from c2s.encoders.opening import open_encoder

if TYPE_CHECKING:
    from anndata import AnnData


def encode(
    adata: AnnData,
    encoder: CellEncoder | str,
    *,
    key_added: str | None = None,
    layer: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Write the places of cells in an encoder's space to `obsm`.

    For cells that come as sentences, turn them into expression first (`c2s expression`, or
    `RankExpressionModel.expression`); what `c2s.tl.generate` returns is expression already.

    Parameters
    ----------
    adata
        Counts, which are normalised to log10(1 + 1e4 · count / total), or values that are logged that way.
    encoder
        An encoder, or its name as `open_encoder` takes it: "pca:FILE.npz", "scvi:FOLDER", "scgpt:FOLDER",
        "geneformer:FOLDER", "c2s:FOLDER". Plain "pca" is fitted on these cells.
    key_added
        Name in `obsm`; by default "X_" and the encoder's kind, as "X_scgpt".
    layer
        As in `c2s.pp.normalize`.
    device, batch_size
        For networks.
    seed
        Of what is fitted or drawn.
    copy
        Return a new object.

    Returns
    -------
    AnnData or None
        `obsm[key_added]`: float32, shape (n_cells, n_dimensions). ``uns["c2s"]["encode"]["model"]`` names the encoder
        by its content, as "scgpt-0123456789abcdef": compare only what has the same name.

    Raises
    ------
    InputError
        The matrix cannot be used, or the encoder knows none of its genes.
    UsageError
        The encoder is unknown, or the key is taken.
    """
    adata = target(adata, copy)
    cells = profiles(adata, "the cells", layer)
    if isinstance(encoder, str):
        encoder = open_encoder(
            encoder,
            training=(cells.matrix, cells.vocabulary),
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
    key = key_added or f"X_{encoder.name}"
    claim(adata, "encode", "obsm", key)
    found = encode_cells(encoder, cells.matrix, cells.vocabulary)
    adata.obsm[key] = found.points.astype(np.float32)
    record(adata, "encode", found.encoder, {"layer": layer, "seed": seed}, {"obsm": [key]})
    return adata if copy else None
