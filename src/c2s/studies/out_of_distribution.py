"""Out-of-distribution studies: whole groups of cells held out, beside a test part of the cells that are left."""

from __future__ import annotations

from c2s.common.errors import UsageError
from c2s.common.progress import OnStage
from c2s.evaluate.conditions import Control
from c2s.studies.annotation import run_annotation
from c2s.studies.cells import TEST, StudyCells
from c2s.studies.encoders import StudyEncoders
from c2s.studies.findings import MODEL, Findings, Section, joined, with_interval
from c2s.studies.generation import run_generation
from c2s.studies.model import StudyModel
from c2s.studies.recipe import OutOfDistributionStudy


def check_control(cells: StudyCells, control: str | None) -> None:
    """Refuse a control that no cell has.

    Raises
    ------
    UsageError
        The column is none of the conditions, or no cell has the value.
    """
    if control is None:
        return
    parsed = Control.parse(control, cells.by)
    if not (cells.obs[parsed.column].astype(str) == parsed.value).any():
        raise UsageError(f"control = {control!r}: no cell has this value")


def run_out_of_distribution(
    cells: StudyCells,
    recipe: OutOfDistributionStudy,
    model: StudyModel | None,
    encoders: StudyEncoders,
    *,
    device: str | None,
    on_stage: OnStage,
) -> Findings:
    """Measure annotation and generation on the test part and on every tier, by what was learned on neither.

    Parameters
    ----------
    cells
        Dealt to training, test and tiers.
    recipe
        What is measured.
    model
        Asked besides the baselines, or None.
    encoders, device, on_stage
        As in `run_annotation` and `run_generation`.

    Returns
    -------
    Findings
        Those of both tasks; parts are "test" (in distribution) and the names of the tiers.
    """
    parts = [Findings(sections=[_tiers(cells, recipe)])]
    if recipe.annotation is not None:
        found = run_annotation(
            cells,
            recipe.annotation,
            model,
            encoders,
            resamples=recipe.resamples,
            seed=recipe.seed,
            on_stage=on_stage,
        )
        parts += [Findings(sections=[_side_by_side(cells, found)]), found]
    if recipe.generation is not None:
        parts.append(
            run_generation(
                cells,
                recipe.generation,
                model,
                encoders,
                control=recipe.control,
                device=device,
                seed=recipe.seed,
                on_stage=on_stage,
            )
        )
    return joined(parts)


def _tiers(cells: StudyCells, recipe: OutOfDistributionStudy) -> Section:
    table = [["part", "cells", "labels", "what it is"]]
    about = {TEST: "in distribution: a part of the cells that are not held out"}
    for tier in recipe.hold_out:
        if tier.lowest_depth is not None:
            about[tier.name] = (
                f"the {tier.lowest_depth:.0%} of the cells of each type with the fewest counts"
            )
        else:
            entries = (" and ".join(f"{k} = {v}" for k, v in entry.items()) for entry in tier.where)
            about[tier.name] = "; ".join(entries)
    for part in cells.measured_parts:
        rows = cells.rows(part)
        labels = len(set(cells.labels[rows]))
        table.append([part, f"{len(rows):,}", f"{labels:,}", about[part]])
    notes = [f"{tier.name}: {tier.note}" for tier in recipe.hold_out if tier.note]
    sentences = [
        "All tiers were kept from training together. Distances of different parts are not comparable with each other: "
        "each part stands beside its own ceiling.",
        *notes,
    ]
    return Section("What was held out", sentences, table)


def _side_by_side(cells: StudyCells, found: Findings) -> Section:
    """Return the accuracies of all parts in one table, the model first."""
    rows = {
        (r["method"], r["part"]): r
        for r in found.rows
        if r["metric"] == "accuracy" and not r.get("against")
    }
    methods = sorted({m for m, _ in rows}, key=lambda m: (m != MODEL, -rows[m, TEST]["value"]))
    table = [["accuracy ↑", *cells.measured_parts]]
    table += [[m, *(with_interval(rows[m, p]) for p in cells.measured_parts)] for m in methods]
    return Section("Annotation, in and out of distribution", [], table)
