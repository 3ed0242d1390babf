"""A verb as work on ranges of rows: what it says of some cells does not depend on the others.

`annotate` and `embed` are written as `Work`. `fill` does it on an AnnData, and `c2s.analysis.streaming` on a file of
any size; both go through the cells in the same chunks, so that they give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from c2s.analysis.cells import Rows, claim, record
from c2s.cells.sentences import report_empty
from c2s.common.errors import InputError, UsageError
from c2s.common.progress import progress_bar
from c2s.models.directory import Model

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells that are ranked and asked at a time, by default: enough for batches of similar lengths.
CHUNK = 4096


@dataclass(frozen=True)
class Columns:
    """What a verb says of some cells, a row a cell.

    Attributes
    ----------
    obs
        Columns of `obs`, indexed by the names of the cells.
    obsm
        Arrays or tables of `obsm`.
    empty : bool array, shape (n_cells,)
        Which cells have no gene that the model knows.
    """

    obs: pd.DataFrame
    obsm: dict[str, np.ndarray | pd.DataFrame]
    empty: np.ndarray


class Work(Protocol):
    """A verb with everything that is the same for all cells: parameters checked, names looked up.

    Attributes
    ----------
    verb, title
        Its name, and what its progress bar says.
    rows, model
        Whom it asks about, and what.
    passes
        How often each cell is shown to the model.
    slots
        Keys that it writes, by slot ("obs", "obsm").
    parameters
        What `uns["c2s"]` keeps of them.
    """

    verb: str
    title: str
    rows: Rows
    model: Model
    passes: int
    slots: dict[str, list[str]]
    parameters: dict[str, Any]

    def options(self) -> dict[str, Any]:
        """Return every parameter that decides what is said of a cell, by name."""

    def columns(
        self, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> Columns:
        """Return what it says of the cells in rows `start` to `stop`, the last not included."""

    def close(self) -> None:
        """Give back what it opened for the work."""


def chunks(n_cells: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that follow each other.

    Raises
    ------
    UsageError
        `size` is below 1.
    InputError
        There are no cells.
    """
    if size < 1:
        raise UsageError(f"chunk_size={size} is not possible; it is at least 1")
    if n_cells == 0:
        raise InputError("there are no cells")
    for start in range(0, n_cells, size):
        yield start, min(start + size, n_cells)


def fill(adata: AnnData, work: Work, chunk_size: int) -> None:
    """Do work on the cells of an AnnData, in memory or backed, write what it says into the object, and close the work.

    Raises
    ------
    UsageError
        A key holds something that this verb did not write, or `chunk_size` is below 1.
    InputError
        The matrix cannot be ranked, or no cell has a gene that the model knows.
    """
    with closing(work):
        for slot, keys in work.slots.items():
            claim(adata, work.verb, slot, *keys)
        with progress_bar(work.title, adata.n_obs * work.passes) as progress:
            parts = [work.columns(*rows, progress) for rows in chunks(adata.n_obs, chunk_size)]
    report_empty(np.concatenate([part.empty for part in parts]), adata.obs_names)
    obs = pd.concat([part.obs for part in parts])
    for key in work.slots["obs"]:
        adata.obs[key] = obs[key]
    for key in work.slots["obsm"]:
        adata.obsm[key] = joined([part.obsm[key] for part in parts])
    record_work(adata, work)


def joined(pieces: list[np.ndarray | pd.DataFrame]) -> np.ndarray | pd.DataFrame:
    """Return arrays or tables of following rows as one."""
    tables = [piece for piece in pieces if isinstance(piece, pd.DataFrame)]
    if tables:
        return pd.concat(tables)
    return np.concatenate(pieces)


def record_work(adata: AnnData, work: Work) -> None:
    """Write to `uns["c2s"]` what was done."""
    record(adata, work.verb, work.model.source, work.parameters, work.slots)


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON keeps them, for comparing with those of another run."""
    import json

    found: dict[str, Any] = json.loads(json.dumps(dict(options), sort_keys=True, default=_listed))
    return found


def _listed(value: Any) -> Any:
    """Return as a list or text what JSON does not know: arrays, indices, other sequences."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(map(str, value)) if np.iterable(value) else str(value)
