"""Annotation and embedding from one h5ad file to another: of any size, in bounded memory, and restartable.

Rows are read, ranked and shown to the model in chunks. What is said of a chunk is written at once to a file of its own,
in a folder beside the output (`OUT.parts`) whose stamp says of what it is: a run that is broken off, however hard, goes
on from the last finished chunk. In the end the input is copied, what was found is added to the copy, and the copy is
renamed into its place; the matrix is never loaded as a whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from c2s.analysis.annotate import Annotation
from c2s.analysis.cells import Rows, refuse_taken
from c2s.analysis.embed import Embedding
from c2s.analysis.work import CHUNK, Columns, Work, chunks, plain_options, record_work
from c2s.cells.readers import read_tables
from c2s.cells.sentences import report_empty
from c2s.common.errors import InputError, UsageError, warn
from c2s.common.files import atomic_file
from c2s.common.progress import progress_bar
from c2s.corpus.sources.base import reading
from c2s.corpus.sources.stored import StoredSource
from c2s.encoders.c2s_model import model_digest
from c2s.models.directory import Model, library_versions

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

_STAMP = "stamp.json"


@dataclass(frozen=True)
class Streamed:
    """What a run over a file did.

    Attributes
    ----------
    obs
        Table of the cells as the output has it.
    widths
        The columns of what was written to `obsm`, by key.
    resumed
        Cells that an earlier run had finished.
    """

    obs: pd.DataFrame
    widths: dict[str, int]
    resumed: int


def annotate_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: Model,
    labels: list[str] | None = None,
    *,
    layer: str | None = None,
    chunk_size: int = CHUNK,
    **options: Any,
) -> Streamed:
    """Name the type of every cell of an `.h5ad` file of any size; writes a copy of the file with what was found.

    The result is that of `c2s.tl.annotate` on the file in memory. A run that was broken off goes on where it stopped
    when it is started again; one with other parameters, another model or a changed file begins anew.

    Parameters
    ----------
    source, out
        The `.h5ad` file to read, which is not changed, and the one to write. Finished chunks wait in the folder
        `OUT.parts` until all are done.
    model, labels, layer, chunk_size
        As in `annotate`.
    **options
        The other parameters of `annotate`, but for `copy`.

    Returns
    -------
    Streamed

    Raises
    ------
    InputError
        The file is damaged or cannot be ranked, or shares no gene with the model.
    UsageError
        A parameter cannot work, or a key holds something else.
    C2SError
        The output cannot be written.

    Examples
    --------
    >>> c2s.tl.annotate_file("atlas.h5ad", "annotated.h5ad", model)  # doctest: +SKIP
    """
    return stream(
        source,
        out,
        lambda rows: Annotation(rows, model, labels, **options),
        layer=layer,
        chunk_size=chunk_size,
    )


def embed_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: Model,
    *,
    layer: str | None = None,
    chunk_size: int = CHUNK,
    **options: Any,
) -> Streamed:
    """Embed every cell of an `.h5ad` file of any size; writes a copy of the file with the embedding in `obsm`.

    The result is that of `c2s.tl.embed` on the file in memory. For restarts see `annotate_file`.

    Parameters
    ----------
    source, out
        As in `annotate_file`.
    model, layer, chunk_size
        As in `embed`.
    **options
        The other parameters of `embed`, but for `copy`.

    Returns
    -------
    Streamed

    Raises
    ------
    InputError, UsageError, C2SError
        As `annotate_file`.
    """
    return stream(
        source,
        out,
        lambda rows: Embedding(rows, model, **options),
        layer=layer,
        chunk_size=chunk_size,
    )


def stream(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    make: Callable[[Rows], Work],
    *,
    layer: str | None = None,
    chunk_size: int = CHUNK,
) -> Streamed:
    """Do the work of a verb on an `.h5ad` file, chunk after chunk; see `annotate_file`.

    Parameters
    ----------
    source, out, chunk_size
        As in `annotate_file`.
    make
        Makes the work, given the rows of the file; it is closed when all cells are done.
    layer
        None for `X`, "raw" for `raw`, or the name of a layer.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".h5ad":
        raise UsageError(f"{out}: must end in .h5ad")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist")
    before = _identity(source)
    adata, obsm_keys = read_tables(source, layer)
    folder = out.with_name(out.name + ".parts")
    with (
        _rows(source, adata, layer, folder, before) as rows,
        closing(make(rows)) as work,
    ):
        for slot, there in (("obs", adata.obs.columns), ("obsm", obsm_keys)):
            refuse_taken(adata, work.verb, slot, work.slots[slot], there)
        parts = _Parts(folder, _stamp(work, before, chunk_size))
        resumed = _finish(work, parts, adata.n_obs, chunk_size)
    starts = [start for start, _ in chunks(adata.n_obs, chunk_size)]
    empty = np.concatenate([parts.empty(start) for start in starts])
    if empty.all():
        parts.remove()  # no later run could go on from it
    report_empty(empty, adata.obs_names)
    if _identity(source) != before:
        raise InputError(f"{source}: the file changed while it was read; run the command again")
    widths = _write(source, out, adata, work, parts, starts)
    parts.remove()
    return Streamed(adata.obs, widths, resumed)


def _finish(work: Work, parts: _Parts, n_cells: int, chunk_size: int) -> int:
    """Do all chunks that are not finished; return how many cells were."""
    resumed = 0
    try:
        with progress_bar(work.title, n_cells * work.passes) as progress:
            for start, stop in chunks(n_cells, chunk_size):
                if parts.has(start):
                    resumed += stop - start
                    progress((stop - start) * work.passes)
                else:
                    parts.put(start, work.columns(start, stop, progress))
    except BaseException:
        parts.remove_if_none()
        raise
    return resumed


def _identity(path: Path) -> dict[str, Any]:
    """Return what tells a file from another, and from itself after a change."""
    with reading(path):
        found = path.stat()
    return {
        "path": str(path.resolve()),
        "bytes": found.st_size,
        "modified_ns": found.st_mtime_ns,
    }


def _stamp(work: Work, file: dict[str, Any], chunk_size: int) -> dict[str, Any]:
    """Return everything that decides what a chunk holds; the size of batches does not."""
    return plain_options(
        {
            "format": 1,
            "verb": work.verb,
            "input": file,
            "model": model_digest(work.model),
            "options": work.options(),
            "chunk_size": chunk_size,
            "versions": library_versions(),
        }
    )


@contextmanager
def _rows(
    source: Path,
    adata: AnnData,
    layer: str | None,
    folder: Path,
    identity: dict[str, Any],
) -> Iterator[Rows]:
    """Yield the rows of a file; a matrix that is stored by column gets a copy by row in `folder`, on the first read."""
    opened: list[StoredSource] = []

    def read(start: int, stop: int) -> Any:
        if not opened:
            content = json.dumps(identity, sort_keys=True)
            opened.append(
                StoredSource(str(source), zarr=False, layer=layer, scratch=folder, content=content)
            )
        return opened[0].read(start, stop)

    try:
        yield Rows(adata.obs, adata.var, read, layer)
    finally:
        for each in opened:
            each.close()


class _Parts:
    """Finished chunks of a run, a file each, in a folder with a stamp; made anew where the stamp is another.

    Raises
    ------
    UsageError
        The folder is none of ours.
    """

    def __init__(self, folder: Path, stamp: dict[str, Any]) -> None:
        self.folder = folder
        written = folder / _STAMP
        if (
            folder.exists()
            and not written.is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise UsageError(
                f"{folder}: is not the work of an earlier run; move it away, or give another output"
            )
        if written.is_file():
            other = _differences(written, stamp)
            if other:
                warn(
                    f"{folder}: holds finished cells of a run with another {' and '.join(other)}; they are dropped, and"
                    " all cells are done anew"
                )
                shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        with atomic_file(written) as temporary:
            temporary.write_text(json.dumps(stamp, indent=1) + "\n", "utf-8")

    def _path(self, start: int) -> Path:
        return self.folder / f"rows-{start:012d}.h5"

    def has(self, start: int) -> bool:
        """Say whether the chunk that begins at a row is finished."""
        import h5py

        return self._path(start).is_file() and bool(h5py.is_hdf5(self._path(start)))

    def put(self, start: int, columns: Columns) -> None:
        """Keep a finished chunk."""
        import anndata as ad
        import h5py

        with atomic_file(self._path(start)) as temporary, h5py.File(temporary, "w") as file:
            for name in ("obs", "obsm", "empty"):
                ad.io.write_elem(file, name, getattr(columns, name))

    @contextmanager
    def opened(self, start: int) -> Iterator[h5py.File]:
        """Open the file of a finished chunk: `obs`, `empty`, and `obsm/KEY`, as anndata stores them."""
        import h5py

        with reading(self._path(start)):
            file = h5py.File(self._path(start), "r")
        with file:
            yield file

    def read(self, start: int, name: str) -> Any:
        """Return `obs` or `empty` of a chunk."""
        import anndata as ad

        with reading(self._path(start)), self.opened(start) as file:
            return ad.io.read_elem(file[name])

    def empty(self, start: int) -> np.ndarray:
        """Return which cells of a chunk have no genes."""
        return np.asarray(self.read(start, "empty"), dtype=bool)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_none(self) -> None:
        """Remove the folder of a run that failed before any chunk was finished."""
        if not any(self.folder.glob("rows-*.h5")):
            self.remove()


def _differences(written: Path, stamp: dict[str, Any]) -> list[str]:
    """Return what differs between the stamp that was written and this one."""
    try:
        found = json.loads(written.read_text("utf-8"))
    except ValueError:
        return ["stamp"]
    if not isinstance(found, dict):
        return ["stamp"]
    return [key for key in stamp if found.get(key) != stamp[key]]


def _write(
    source: Path, out: Path, adata: AnnData, work: Work, parts: _Parts, starts: list[int]
) -> dict[str, int]:
    """Write the output, a copy of the input with what was found in all chunks; return the widths in `obsm`."""
    import anndata as ad
    import h5py

    found = pd.concat([parts.read(start, "obs") for start in starts])
    for key in work.slots["obs"]:
        adata.obs[key] = found[key].array  # rows are in the same order
    record_work(adata, work)
    with atomic_file(out) as temporary:
        shutil.copyfile(source, temporary)
        with (
            h5py.File(temporary, "r+") as file,
            ad.settings.override(allow_write_nullable_strings=True),
        ):
            # The whole table: names may have been made unique, and old files have other forms of tables.
            ad.io.write_elem(file, "obs", adata.obs)
            for slot in ("obsm", "uns"):
                if slot not in file:
                    ad.io.write_elem(file, slot, {})
            ad.io.write_elem(file["uns"], "c2s", adata.uns["c2s"])
            return {
                key: _write_obsm(file, key, parts, starts, adata.n_obs)
                for key in work.slots["obsm"]
            }


def _write_obsm(file: h5py.File, key: str, parts: _Parts, starts: list[int], n_cells: int) -> int:
    """Write an array or a table chunk after chunk, so that it is never held as a whole; return its width."""
    obsm = file["obsm"]
    if key in obsm:
        del obsm[key]
    for start in starts:
        with parts.opened(start) as part:
            _put_rows(obsm, key, part[f"obsm/{key}"], start, n_cells)
    written = obsm[key]
    return (
        len(written.attrs["column-order"]) if "column-order" in written.attrs else written.shape[1]
    )


def _put_rows(
    group: h5py.Group, name: str, piece: h5py.Group | h5py.Dataset, start: int, n_cells: int
) -> None:
    """Copy rows of an element as anndata stores it, an array or a group of arrays with an entry a row, to their place.

    Categories are no rows: they are the same in every chunk, since the labels are.
    """
    import h5py

    if name == "categories" and group.attrs.get("encoding-type") == "categorical":
        if name not in group:
            group.copy(piece, group, name)
    elif isinstance(piece, h5py.Group):
        inside = group.require_group(name)
        inside.attrs.update(piece.attrs)
        for each in piece:
            _put_rows(inside, each, piece[each], start, n_cells)
    else:
        if name not in group:
            group.create_dataset(name, (n_cells, *piece.shape[1:]), piece.dtype)
            group[name].attrs.update(piece.attrs)
        group[name][start : start + len(piece)] = piece[()]
