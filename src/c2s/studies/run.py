"""Run a study: check, read, learn, measure, and leave a directory that says what was done."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from c2s.common.errors import UsageError
from c2s.common.files import atomic_directory, json_able, refuse_foreign, sha256
from c2s.common.progress import OnStage, no_progress
from c2s.models.directory import library_versions
from c2s.studies.annotation import encoder_specs, run_annotation
from c2s.studies.cells import TRAIN, StudyCells, load_cells
from c2s.studies.embedding import run_embedding
from c2s.studies.encoders import StudyEncoders
from c2s.studies.findings import Findings, Section, markdown_table
from c2s.studies.generation import check_generation, run_generation
from c2s.studies.model import StudyModel, check_model, open_model, study_model
from c2s.studies.out_of_distribution import check_control, run_out_of_distribution
from c2s.studies.recipe import (
    PANCREAS,
    AnnotationStudy,
    AnyStudy,
    EmbeddingStudy,
    GenerationStudy,
    Published,
)

#: What a study leaves in its folder.
WRITTEN = {
    "recipe.yaml",
    "manifest.json",
    "results.json",
    "results.csv",
    "summary.md",
    "split.csv",
    "left_out.csv",
    "predictions.csv",
    "figures",
    "model",
}


def run_study(
    name: str,
    recipe: AnyStudy,
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> Findings:
    """Run a study and leave a directory, which appears when everything is complete.

    Parameters
    ----------
    name
        Of the recipe, for the record.
    recipe
        What to do.
    out
        Folder that gets `recipe.yaml` (every default filled in), `manifest.json` (inputs with SHA-256, versions, seed,
        seconds), `results.csv` (a figure a row), `results.json`, `summary.md`, `split.csv`, `left_out.csv`, `figures/`,
        and, where there are such, `predictions.csv` and `model/`.
    device
        "cpu" keeps off a GPU.
    on_stage
        See `c2s.studies.train.OnStage`.

    Raises
    ------
    UsageError
        `out` holds something else, or the recipe cannot work on these cells; nothing was trained then.
    InputError
        Data, a model or an encoder cannot be read.
    """
    out = Path(out)
    refuse_foreign(out, WRITTEN)
    started = time.perf_counter()
    on_stage("Reading cells", 1)(1)
    cells = load_cells(name, recipe)
    encoders = StudyEncoders(cells, device, recipe.seed)
    check_study(cells, recipe, encoders)
    model = study_model(cells, recipe, open_model(recipe, device), device, on_stage)
    findings = _run(cells, recipe, model, encoders, device, on_stage)
    facts = {
        "study": name,
        "kind": recipe.kind,
        "title": recipe.title,
        "cells": cells.facts(),
        "model": None if model is None else model.facts,
        "notes": list(cells.notes),
        **findings.facts,
    }
    manifest = {
        "study": name,
        "data": {"name": recipe.data, "sha256": _data_hash(recipe)},
        "model": {"name": recipe.model, "sha256": _path_hash(recipe.model)},
        "seed": recipe.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": library_versions(),
    }
    with atomic_directory(out) as folder:
        if model is not None and model.trained:
            model.model.save(folder / "model")
        _write(folder, name, recipe, cells, model, findings, facts, manifest)
    return findings


def plan_study(name: str, recipe: AnyStudy, *, device: str | None = None) -> dict[str, Any]:
    """Check all that can be checked without learning, and say what a run would do; errors as `run_study`.

    Returns
    -------
    dict
        `study`, `kind`, `cells` (numbers of cells, labels and donors by part), `model` (what it is), `notes`.
    """
    cells = load_cells(name, recipe)
    check_study(cells, recipe, StudyEncoders(cells, device, recipe.seed))
    opened = open_model(recipe, device)
    about: dict[str, Any] | None = None if opened is None else opened.facts
    if recipe.train is not None:
        steps, size = recipe.train.optimisation.steps, recipe.train.optimisation.batch_size
        about = {
            "source": "trained in the run",
            "preset": recipe.train.preset,
            "examples": steps * size,
        }
    return {
        "study": name,
        "kind": recipe.kind,
        "cells": cells.facts(),
        "model": about,
        "notes": list(cells.notes),
    }


def check_study(cells: StudyCells, recipe: AnyStudy, encoders: StudyEncoders) -> None:
    """Refuse, before anything is trained, what cannot work on these cells; errors as `run_study`."""
    for field, methods in _methods(recipe).items():
        if not methods and recipe.model is None and recipe.train is None:
            raise UsageError(f"{field}: none is named, and there is no model; nothing to measure")
    if isinstance(recipe, AnnotationStudy):
        check_model(recipe, ("cell_type",))
        encoders.check(encoder_specs(recipe))
    elif isinstance(recipe, GenerationStudy):
        check_model(recipe, ("cond_cell",))
        check_generation(recipe, False, encoders)
    elif isinstance(recipe, EmbeddingStudy):
        encoders.check(recipe.encoders)
    else:
        check_control(cells, recipe.control)
        if recipe.annotation is not None:
            check_model(recipe, ("cell_type",))
            encoders.check(encoder_specs(recipe.annotation))
        if recipe.generation is not None:
            check_model(recipe, ("cond_cell",))
            check_generation(recipe.generation, recipe.control is not None, encoders)


def _methods(recipe: AnyStudy) -> dict[str, Sequence[str]]:
    """Return what is measured beside the model, by field of the recipe."""
    if isinstance(recipe, AnnotationStudy):
        return {"baselines": recipe.baselines}
    if isinstance(recipe, GenerationStudy):
        return {"generators": recipe.generators}
    if isinstance(recipe, EmbeddingStudy):
        return {"encoders": recipe.encoders}
    found: dict[str, Sequence[str]] = {}
    if recipe.annotation is not None:
        found["annotation.baselines"] = recipe.annotation.baselines
    if recipe.generation is not None:
        found["generation.generators"] = recipe.generation.generators
    return found


def _run(
    cells: StudyCells,
    recipe: AnyStudy,
    model: StudyModel | None,
    encoders: StudyEncoders,
    device: str | None,
    on_stage: OnStage,
) -> Findings:
    if isinstance(recipe, AnnotationStudy):
        return run_annotation(
            cells,
            recipe,
            model,
            encoders,
            resamples=recipe.resamples,
            seed=recipe.seed,
            on_stage=on_stage,
        )
    if isinstance(recipe, GenerationStudy):
        return run_generation(
            cells, recipe, model, encoders, device=device, seed=recipe.seed, on_stage=on_stage
        )
    if isinstance(recipe, EmbeddingStudy):
        return run_embedding(cells, recipe, model, encoders, on_stage=on_stage)
    return run_out_of_distribution(cells, recipe, model, encoders, device=device, on_stage=on_stage)


def _data_hash(recipe: AnyStudy) -> str | None:
    if recipe.data == PANCREAS:
        packaged = resources.files("c2s.datasets").joinpath("data/pancreas.npz.xz")
        with resources.as_file(packaged) as path:
            return sha256(path)
    return _path_hash(recipe.data)


def _path_hash(name: str | None) -> str | None:
    """Return the SHA-256 of a file, or of the names and hashes of all files of a folder; None if there is neither."""
    path = None if name is None else Path(name)
    if path is None or not path.exists():
        return None
    if path.is_file():
        return sha256(path)
    content = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return content.hexdigest()


def _write(
    folder: Path,
    name: str,
    recipe: AnyStudy,
    cells: StudyCells,
    model: StudyModel | None,
    findings: Findings,
    facts: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> None:
    resolved = yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    (folder / "recipe.yaml").write_text(resolved, "utf-8")
    _write_json(folder / "manifest.json", manifest)
    table = findings.table()
    table.to_csv(folder / "results.csv", index=False)
    published = None if recipe.published is None else recipe.published.model_dump(mode="json")
    _write_json(
        folder / "results.json",
        {
            **facts,
            "results": table.to_dict("records"),
            "left_out": findings.left_out,
            "published": published,
        },
    )
    left_out = pd.DataFrame(
        findings.left_out, columns=["part", "method", "label", "metric", "reason"]
    )
    left_out.to_csv(folder / "left_out.csv", index=False)
    split = pd.DataFrame({"cell_id": cells.obs.index, "part": cells.part, "label": cells.labels})
    if cells.donors is not None:
        split["donor"] = cells.donors.names
    split.to_csv(folder / "split.csv", index=False)
    for file, content in findings.tables.items():
        content.to_csv(folder / file, index=False)
    if findings.figures:
        (folder / "figures").mkdir()
        for stem, figure in findings.figures.items():
            figure.savefig(folder / "figures" / f"{stem}.png", dpi=130)
    text = summary(name, recipe, cells, model, findings)
    (folder / "summary.md").write_text(text, "utf-8")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(json_able(dict(content)), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def summary(
    name: str,
    recipe: AnyStudy,
    cells: StudyCells,
    model: StudyModel | None,
    findings: Findings,
) -> str:
    """Return the text of `summary.md`: what was done, what came out, what others published, what is missing."""
    parts = [f"# {recipe.title}", _what_was_done(name, recipe, cells, model)]
    parts += [_written(section) for section in findings.sections]
    if findings.left_out:
        n = len(findings.left_out)
        parts.append(
            f"{n:,} comparison{'s were' if n > 1 else ' was'} left out; `left_out.csv` says which and why."
        )
    if recipe.published is not None:
        parts += [_written(section) for section in published_sections(recipe.published)]
    return "\n\n".join(parts) + "\n"


def _written(section: Section) -> str:
    parts = [f"## {section.title}", *section.paragraphs, markdown_table(section.table)]
    return "\n\n".join(part for part in parts if part)


def _what_was_done(name: str, recipe: AnyStudy, cells: StudyCells, model: StudyModel | None) -> str:
    counts = ", ".join(
        f"{len(cells.rows(part)):,} {part}" for part in (TRAIN, *cells.measured_parts)
    )
    train, test = recipe.split.fractions
    how = "at random within each label" if recipe.split.by == "cell" else "by whole donors"
    sentences = [
        f"Study `{name}` ({recipe.kind}) on {cells.name}: {len(cells.labels):,} cells × {len(cells.vocabulary):,} "
        f"genes, {len(set(cells.labels)):,} labels ({' × '.join(cells.by)}).",
        f"Cells were dealt {how}, {train:.0%} to training and {test:.0%} to the test: {counts}. Seed {recipe.seed}.",
        *cells.notes,
        "No model was measured: the recipe names none." if model is None else model.sentence(),
    ]
    return " ".join(sentences)


def published_sections(published: Published) -> list[Section]:
    """Return what was published, on which data, and what a run of the recipe lacks for it."""
    numbers = [
        Section(
            "Published, on other cells or another split",
            [
                f"Data set of the publication: {published.dataset} ({published.citation}).",
                "These numbers were not made here. They stand on the cells that are named beside them, and are no part "
                "of any comparison above.",
            ],
            [["what", "model", "value", "published, on", "read in"]]
            + [[n.what, n.method, n.value, n.dataset, n.source] for n in published.numbers],
        )
        if published.numbers
        else Section(
            "Published",
            [
                f"Data set of the publication: {published.dataset} ({published.citation}). No number for this study "
                "was found in a source that could be read."
            ],
        )
    ]
    lacking = Section(
        "Missing for the published study", ["\n".join(f"- {line}" for line in published.missing)]
    )
    return [*numbers, *([lacking] if published.missing else [])]
