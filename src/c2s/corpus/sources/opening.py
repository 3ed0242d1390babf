"""Opening a source of cells, of whatever kind it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from c2s.common.errors import InputError
from c2s.corpus.sources.base import CellSource, GeneNames
from c2s.corpus.sources.memory import AnnDataSource
from c2s.corpus.sources.paths import PACKAGED
from c2s.corpus.sources.stored import StoredSource

Kind = Literal["auto", "soma"]


def open_source(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    gene_names: GeneNames = None,
    kind: Kind = "auto",
    scratch: Path | None = None,
    content: str | None = None,
    measurement: str = "RNA",
) -> CellSource:
    """Open a source of cells.

    Parameters
    ----------
    path
        An `.h5ad` file, a `.zarr` folder (format 2 or 3), the folder of a TileDB-SOMA experiment
        (extra `soma`), or ``"pancreas"`` for the packaged data.
    layer
        None for `X`, ``"raw"`` for `raw`, else a layer. In an experiment the name of a matrix in
        `X`; None is ``"raw"``.
    gene_names
        Where symbols of gene ids are found, as in `GeneVocabulary.from_var`.
    kind
        ``"auto"`` decides by what the path is; ``"soma"`` takes it for an experiment.
    scratch
        A folder for the row-wise copy of a matrix that is stored by column. It is made once and
        reused by every process that opens the same content with the same folder; it may be removed
        when no process reads from it.
    content
        `digest(path)`, where it is known; otherwise it is worked out if a row-wise copy is needed.
    measurement
        The measurement of an experiment.

    Raises
    ------
    InputError
        The file is missing, damaged, of an unknown kind, or stored by column and there is no `scratch`.
    UsageError
        There is no such layer or measurement, or the extra is not installed.
    C2SError
        The row-wise copy cannot be written.
    """
    name = os.fspath(path)
    found = "soma" if kind == "soma" else _kind(name)
    if found == PACKAGED:
        from c2s.datasets import pancreas

        return AnnDataSource(name, pancreas(), layer=layer, gene_names=gene_names)
    if found == "soma":
        from c2s.corpus.sources.soma import SomaSource

        return SomaSource(
            name, layer=layer or "raw", gene_names=gene_names, measurement=measurement
        )
    return StoredSource(
        name,
        zarr=found == "zarr",
        layer=layer,
        gene_names=gene_names,
        scratch=scratch,
        content=content,
    )


def _kind(name: str) -> str:
    """Say what kind of source a path is."""
    if name == PACKAGED:
        return PACKAGED
    path = Path(name)
    if not path.exists():
        raise InputError(f"{name}: there is no such file or folder")
    if path.is_dir():
        if any((path / marker).exists() for marker in ("zarr.json", ".zgroup")):
            return "zarr"
        if any((path / marker).exists() for marker in ("__group", "__tiledb_group.tdb")):
            return "soma"
    elif path.suffix.lower() in (".h5ad", ".h5", ".hdf5"):
        return "h5ad"
    raise InputError(
        f"{name}: it is no source of cells; expected an .h5ad file, a .zarr folder, the folder of a"
        " TileDB-SOMA experiment, or 'pancreas'; other files can be rewritten with"
        " c2s.cells.readers.read(path).write_h5ad(...)"
    )
