"""What a build would do, measured on a few cells before it starts (`--dry-run`)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2s.common.progress import OnStage
from c2s.corpus.build import Plan, leave_for_units, make_plan
from c2s.corpus.engines import processes
from c2s.corpus.index import read_fields
from c2s.corpus.recipe import read_recipe
from c2s.corpus.unit import (
    Unit,
    UnitRecord,
    build_unit,
    genes_path,
    record_path,
    shared_digest,
)

#: Cells that are built to measure tokens and time, and gene sets of each file.
TRIAL_CELLS, TRIAL_SETS = 1024, 64


@dataclass(frozen=True)
class Preview:
    """What a build would make; everything about samples, tokens and bytes is extrapolated from the trial."""

    files: int
    cells: int
    studies: int
    genes: int
    units: int
    trial_cells: int
    """Cells of the largest file that the extrapolation stands on, those of them that stay."""
    samples: int
    tokens: int
    bytes: int
    seconds: float
    """With the given number of processes, as fast as the trial was."""
    bytes_per_process: int
    """Working memory of a process beyond its libraries, at most."""
    teacher: dict[str, Any] | None
    """What the paraphrases would take."""
    notes: list[str]


def preview(recipe_path: str | Path, *, workers: int | None = None, on_stage: OnStage) -> Preview:
    """Look at the sources, build a few cells and gene sets in a temporary folder, and say what the whole would be.

    Files are not hashed and nothing is asked of a teacher.

    Raises
    ------
    InputError, UsageError
        As `build_corpus`, for everything that can be known before it.
    """
    recipe, folder = read_recipe(recipe_path), Path(recipe_path).resolve().parent
    workers = workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="c2s-preview-") as temporary:
        out = Path(temporary)
        (out / "work").mkdir()
        with processes(workers) as here:
            plan = make_plan(recipe, folder, out / "work", here, on_stage, trial=True)
        leave_for_units(plan, out)
        sha, (file, index) = max(plan.sources.items(), key=lambda item: item[1][1].n_kept)
        # Rare genes are not counted here: they are hardly ever among the first of a cell.
        all_genes = np.ones(index.n_genes, bool)
        np.save(genes_path(out / "work", sha, file.recipe, recipe.quality), all_genes)
        unit, kept = _trial_unit(out / "work", sha, index.look, recipe.unit_cells)
        _trial(out, [unit])  # compiles the kernels and fills the caches
        trials = [(sum(i.n_kept for _, i in plan.sources.values()) / kept, *_trial(out, [unit]))]
        some, share = _trial_gene_sets(plan)
        if some:
            trials.append((share, *_trial(out, some)))
    units = plan.units(dict.fromkeys(plan.sources, ""), "")
    return Preview(
        files=len(plan.sources),
        cells=sum(i.n_kept for _, i in plan.sources.values()),
        studies=len(plan.splits),
        genes=len(plan.words),
        units=len(units),
        trial_cells=sum(sum(r.cells.values()) for r in trials[0][2]),
        samples=round(
            sum(f * n for f, _, records in trials for r in records for n in _each(r.samples))
        ),
        tokens=round(
            sum(f * n for f, _, records in trials for r in records for n in _each(r.tokens))
        ),
        bytes=round(
            sum(
                f * facts["bytes"]
                for f, _, records in trials
                for r in records
                for facts in r.files.values()
            )
        ),
        seconds=sum(f * seconds for f, seconds, _ in trials) / workers,
        bytes_per_process=_memory(plan),
        teacher=plan.teacher,
        notes=plan.notes,
    )


def _each(counts: Mapping[str, Mapping[str, int]]) -> Iterator[int]:
    for by_task in counts.values():
        yield from by_task.values()


def _trial(out: Path, units: Sequence[Unit]) -> tuple[float, list[UnitRecord]]:
    """Build units, anew if they are there; return the seconds that it took, and their records."""
    for unit in units:
        record_path(out, unit).unlink(missing_ok=True)
    started = time.perf_counter()
    records = [build_unit(str(out), shared_digest(out), unit) for unit in units]
    return time.perf_counter() - started, records


def _trial_unit(work: Path, sha: str, look: str, unit_cells: int) -> tuple[Unit, int]:
    """Return a small unit from the middle of the cells that 'keep' takes, and how many of them it has."""
    kept = read_fields(work, look)["kept"].to_numpy(zero_copy_only=False)
    size = min(TRIAL_CELLS, len(kept), unit_cells)
    taken = np.flatnonzero(kept)
    start = int(min(max(taken[len(taken) // 2] - size // 2, 0), len(kept) - size))
    unit = Unit("cells", sha, start, start + size, "trial")
    return unit, int(kept[start : start + size].sum())


def _trial_gene_sets(plan: Plan) -> tuple[list[Unit], float]:
    """Return a few gene sets of each file as units, and how many times as many there are."""
    if not plan.recipe.task_ids("gene_set"):
        return [], 0.0
    sizes = {sha: len(parts) for sha, (_, _, parts) in plan.gene_sets.items()}
    units = [Unit("gene_sets", s, 0, min(n, TRIAL_SETS), "trial") for s, n in sizes.items()]
    return units, sum(sizes.values()) / max(sum(u.stop for u in units), 1)


def _memory(plan: Plan) -> int:
    """Return the bytes of a unit's ranks, of the rows that are read at a time, and of tokens on their way out."""
    recipe = plan.recipe
    ranks = 4 * recipe.unit_cells * min(recipe.most_genes, len(plan.words))
    return ranks + (64 << 20)
