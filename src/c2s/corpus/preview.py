"""What a build would do, measured on a few cells before it starts (`--dry-run`)."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2s.corpus.build import OnStage, Plan, leave_for_units, make_plan
from c2s.corpus.recipe import read_recipe
from c2s.corpus.unit import Unit, build_unit, shared_digest

#: Cells that are built to measure tokens and time.
TRIAL_CELLS = 1024


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
    """Look at the sources, build one small unit in a temporary folder, and say what the whole would be.

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
        plan = make_plan(recipe, folder, out / "work", workers, on_stage, trial=True)
        leave_for_units(plan, out)
        sha, (_, index) = max(plan.sources.items(), key=lambda item: item[1][1].n_kept)
        unit = Unit("cells", sha, 0, min(TRIAL_CELLS, index.n_cells, recipe.unit_cells), "trial")
        build_unit(str(out), shared_digest(out), unit)  # compiles the kernels and fills the caches
        (out / "units" / f"{unit.name}.json").unlink()
        started = time.perf_counter()
        record = build_unit(str(out), shared_digest(out), unit)
        seconds = time.perf_counter() - started
    rows = sum(i.n_cells for _, i in plan.sources.values())
    scale = rows / unit.stop
    return Preview(
        files=len(plan.sources),
        cells=sum(i.n_kept for _, i in plan.sources.values()),
        studies=len(plan.splits),
        genes=len(plan.words),
        units=sum(-(-i.n_cells // recipe.unit_cells) for _, i in plan.sources.values()),
        trial_cells=sum(record.cells.values()),
        samples=round(scale * sum(sum(t.values()) for t in record.samples.values())),
        tokens=round(scale * sum(sum(t.values()) for t in record.tokens.values())),
        bytes=round(scale * sum(facts["bytes"] for facts in record.files.values())),
        seconds=scale * seconds / workers,
        bytes_per_process=_memory(plan),
        teacher=plan.teacher,
        notes=plan.notes,
    )


def _memory(plan: Plan) -> int:
    """Return the bytes of a unit's ranks, of the rows that are read at a time, and of tokens on their way out."""
    recipe = plan.recipe
    ranks = 4 * recipe.unit_cells * min(recipe.most_genes, len(plan.words))
    return ranks + (64 << 20)
