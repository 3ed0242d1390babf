"""Encoders by name, as commands and recipes give them: "pca:30", "scgpt:FOLDER", "c2s:FOLDER"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.encoders.base import CellEncoder

if TYPE_CHECKING:
    import scipy.sparse as sp

#: Each kind with how it is written.
ENCODERS = {
    "pca": "pca, pca:NUMBER or pca:FILE.npz",
    "scvi": "scvi or scvi:FOLDER",
    "scgpt": "scgpt:FOLDER",
    "geneformer": "geneformer:FOLDER",
    "c2s": "c2s:FOLDER_OR_ID",
}

#: Of "pca". More overfit a thousand cells: real cells then lie further from real cells than they do.
PCA_COMPONENTS = 20


def open_encoder(
    spec: str,
    *,
    training: tuple[sp.csr_matrix, GeneVocabulary] | None = None,
    counts: sp.csr_matrix | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> CellEncoder:
    """Make the encoder that a text names.

    Parameters
    ----------
    spec
        - ``pca`` or ``pca:30``: fitted on `training`, with 20 or the given number of components;
          ``pca:FILE.npz``: as `PCAEncoder.save` wrote it.
        - ``scvi``: trained on `counts`; ``scvi:FOLDER``: as `ScviEncoder.save` wrote it.
        - ``scgpt:FOLDER``, ``geneformer:FOLDER``: a published checkpoint.
        - ``c2s:FOLDER`` or ``c2s:ID``: a model directory, or the hub id of one.
    training
        Real training cells as log10(1 + CP10k), shape (n_cells, n_genes), and the genes of the columns. Generated and
        test cells have no place there: they would flatter what is measured.
    counts
        Raw counts of the same cells and genes, for scVI.
    device, batch_size
        For networks: where they run, and cells at a time. By default what fits each.
    seed
        Of what is fitted or drawn.

    Raises
    ------
    UsageError
        There is no such kind, it needs a folder, or cells to be fitted on.
    InputError
        What is there cannot be read, or there are too few cells.

    Examples
    --------
    >>> open_encoder("pca:30", training=(expression, vocabulary)).n_dimensions  # doctest: +SKIP
    30
    """
    kind, _, where = spec.strip().partition(":")
    if kind not in ENCODERS:
        known = "; ".join(ENCODERS.values())
        raise UsageError(f"encoder: found {spec!r}, expected one of: {known}")
    if not where and kind not in ("pca", "scvi"):
        raise UsageError(f"encoder: found {spec!r}, expected {ENCODERS[kind]}")
    if kind == "pca":
        return _pca(where, training, seed)
    if kind == "scvi":
        return _scvi(where, training, counts, device, seed)
    if kind == "scgpt":
        from c2s.encoders.scgpt import ScGPTEncoder

        sized: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
        return ScGPTEncoder.from_folder(where, device=device, seed=seed, **sized)
    if kind == "geneformer":
        from c2s.encoders.geneformer import GeneformerEncoder

        return GeneformerEncoder.from_folder(where, device=device, batch_size=batch_size)
    from c2s.encoders.c2s_model import C2SEncoder
    from c2s.models.directory import load_model

    return C2SEncoder(load_model(where, device=device), batch_size=batch_size, seed=seed)


def is_fitted(spec: str) -> bool:
    """Return whether the encoder that a text names is fitted on training cells, and not read from files."""
    kind, _, where = spec.strip().partition(":")
    return kind in ("pca", "scvi") and (not where or where.isdigit())


def _pca(
    where: str, training: tuple[sp.csr_matrix, GeneVocabulary] | None, seed: int
) -> CellEncoder:
    from c2s.encoders.pca import PCAEncoder

    try:
        number = int(where or PCA_COMPONENTS)
    except ValueError:
        return PCAEncoder.load(where)
    encoder = PCAEncoder(number, seed)
    matrix, vocabulary = _needed("pca", training)
    most = min(matrix.shape[0] - 1, matrix.shape[1])
    if number > most:
        raise InputError(
            f"encoder: {number:,} principal components need {number + 1:,} cells and {number:,} genes, found "
            f"{matrix.shape[0]:,} and {matrix.shape[1]:,}; "
            + (f"give pca:{most} or fewer" if most > 0 else "give more cells")
        )
    return encoder.fit(matrix, vocabulary)


def _scvi(
    where: str,
    training: tuple[sp.csr_matrix, GeneVocabulary] | None,
    counts: sp.csr_matrix | None,
    device: str | None,
    seed: int,
) -> CellEncoder:
    if where:
        from c2s.encoders.scvi import ScviEncoder

        return ScviEncoder.load(where)
    _, vocabulary = _needed("scvi", training)
    if counts is None:
        raise UsageError(
            "encoder: 'scvi' is trained on raw counts, and there are none; give cells with counts, or scvi:FOLDER"
        )
    from c2s.encoders.scvi import ScviEncoder

    return ScviEncoder.fit(counts, vocabulary, seed=seed, device=device)


def _needed(
    kind: str, training: tuple[sp.csr_matrix, GeneVocabulary] | None
) -> tuple[sp.csr_matrix, GeneVocabulary]:
    if training is None:
        raise UsageError(
            f"encoder: {kind!r} is fitted on real training cells, and there are none; give them, or {ENCODERS[kind]}"
        )
    return training
