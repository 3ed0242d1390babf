"""`c2s demo`: the whole path on real pancreas cells, from counts to a measured model and a report."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.analysis.annotate import annotate
from c2s.analysis.embed import embed
from c2s.analysis.generate import cells_to_adata, default_sampling, generate_cells
from c2s.cells.inverse import rank_points
from c2s.cells.preprocess import log10_normalized
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.common.errors import C2SError, UsageError, warn
from c2s.common.files import atomic_directory, json_able, refuse_foreign
from c2s.common.progress import OnStage, no_progress
from c2s.common.seeds import generator
from c2s.evaluate.annotation import annotation_baselines, evaluate_annotation
from c2s.evaluate.generation import GenerationResult, Space, evaluate_generation, independent_cells
from c2s.metrics import METRICS, confusion_matrix, scfid
from c2s.models.directory import Model, leave_for_commands, library_versions
from c2s.report.demo import DemoResults, demo_overview, write_report
from c2s.studies.train import (
    PreparedCells,
    TrainedModel,
    TrainRecipe,
    load_data,
    train_model,
)

if TYPE_CHECKING:
    from anndata import AnnData

#: What the demo leaves in its folder.
WRITTEN = {
    "model",
    "annotated.h5ad",
    "generated.h5ad",
    "metrics.json",
    "report.html",
    "overview.png",
    "recipe.json",
}

#: Cells generated of a type that has no held-out cell to match.
UNMATCHED = 5


def demo_recipe(**changes: Any) -> TrainRecipe:
    """Return the packaged recipe of the demo, with some fields changed."""
    text = resources.files("c2s.studies").joinpath("recipes/demo.yaml")
    with resources.as_file(text) as path:
        recipe = TrainRecipe.read(path)
    return recipe.model_copy(update=changes)


def run_demo(
    out: str | os.PathLike[str],
    recipe: TrainRecipe | None = None,
    *,
    device: str | None = None,
    keep_model: bool = True,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Train, annotate, generate, embed and measure on the packaged pancreas cells, and write it all down.

    Parameters
    ----------
    out
        Folder that gets `model/`, `annotated.h5ad`, `generated.h5ad`, `metrics.json`, `report.html`,
        `overview.png` and `recipe.json`. It is replaced only when everything is complete, and only if it is
        missing, empty or an earlier demo.
    recipe
        What to do; by default the packaged one.
    device
        "cpu" keeps off a GPU.
    keep_model
        Also leave the model where commands find it when no `--model` is given.
    on_stage
        See `OnStage`.

    Returns
    -------
    dict
        The content of `metrics.json`.

    Raises
    ------
    UsageError
        `out` holds something else.
    """
    out = Path(out)
    refuse_foreign(out, WRITTEN)
    recipe = recipe or demo_recipe()
    if recipe.data != "pancreas":
        raise UsageError(
            f"data = {recipe.data!r}: the demo runs on 'pancreas'; use c2s train for other data"
        )
    started = time.perf_counter()
    with atomic_directory(out) as folder:
        adata = load_data(recipe)
        trained = train_model(adata, recipe, "pancreas", device=device, on_stage=on_stage)
        model, cells = trained.model, trained.cells
        seconds = dict(trained.seconds)
        clock = _Clock(seconds)
        model.source = f"{out.name}/model"
        adata.obs["split"] = cells.split
        annotate(adata, model, views=recipe.views, seed=recipe.seed)
        clock.lap("annotate")
        embed(adata, model, seed=recipe.seed)
        clock.lap("embed")
        generated, wanted = _generate(model, cells, recipe)
        clock.lap("generate")
        results = measure(trained, adata, generated, recipe)
        clock.lap("measure")
        model.save(folder / "model")
        adata.write_h5ad(folder / "annotated.h5ad", compression="gzip")
        made = cells_to_adata(
            model, generated, wanted, "Homo sapiens", default_sampling(model, seed=recipe.seed)
        )
        made.obs["matched"] = np.arange(len(wanted)) < len(cells.rows("test"))
        made.write_h5ad(folder / "generated.h5ad", compression="gzip")
        clock.lap("write")
        metrics = dict(results.metrics)
        metrics["seconds"] = round(time.perf_counter() - started, 1)
        metrics["seconds_by_stage"] = {k: round(v, 1) for k, v in seconds.items()}
        metrics = json_able(metrics)
        results = replace(results, metrics=metrics)
        write_report(folder / "report.html", results)
        demo_overview(results).savefig(folder / "overview.png", dpi=110)
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1) + "\n", "utf-8")
        (folder / "metrics.json").write_text(
            json.dumps(metrics, indent=1, allow_nan=False) + "\n", "utf-8"
        )
    if keep_model:
        try:
            leave_for_commands(out / "model")
        except C2SError as error:
            warn(f"{error}; give commands --model {out / 'model'}")
    return metrics


class _Clock:
    """Writes the seconds of each stage into a dictionary."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


def _generate(
    model: Model, cells: PreparedCells, recipe: TrainRecipe
) -> tuple[RankedCells, np.ndarray]:
    """Generate a cell for each held-out cell, of its type, and a few of each type that has none held out."""
    matched = cells.labels[cells.rows("test")]
    others = sorted(set(model.known("cell_type")) - set(matched))
    wanted = np.concatenate([matched, np.repeat(np.array(others, dtype=object), UNMATCHED)])
    generated = generate_cells(
        model,
        wanted,
        "Homo sapiens",
        top_k=recipe.top_k,
        sampling=default_sampling(model, seed=recipe.seed),
    )
    return generated, wanted


def measure(
    trained: TrainedModel, adata: AnnData, generated: RankedCells, recipe: TrainRecipe
) -> DemoResults:
    """Measure everything on the held-out cells and gather what the report shows.

    Parameters
    ----------
    trained
        Model and prepared cells.
    adata
        The annotated cells.
    generated
        Generated cells; the first are of the types of the held-out cells, one by one.
    recipe
        What was run.
    """
    model, cells, seed = trained.model, trained.cells, recipe.seed
    train, test = cells.rows("train"), cells.rows("test")
    truth = cells.labels[test]
    predicted = adata.obs["c2s_cell_type"].to_numpy(dtype=object)[test]
    confidence = adata.obs["c2s_confidence"].to_numpy()[test]
    annotation = evaluate_annotation(truth, predicted, confidence, seed)
    reliability = annotation.pop("reliability")
    annotation["baselines"] = annotation_baselines(
        cells.all_counts, cells.labels, train, test, seed
    )
    labels, matrix = confusion_matrix(truth, predicted)

    space = Space.fit(cells.ranked(train, recipe.top_k, seed), cells.inverse, seed=seed)
    real = cells.ranked(test, recipe.top_k, seed)
    matched = generated.take(np.arange(len(test)))
    baseline = independent_cells(
        cells.counts[train], cells.vocabulary, cells.labels[train], truth, recipe.top_k, seed
    )
    found = evaluate_generation(
        space=space, training=cells.ranked(train, recipe.top_k, seed), training_labels=cells.labels[train],
        real=real, real_labels=truth, generated=matched, baseline=baseline, top_k=recipe.top_k, seed=seed,
    )  # fmt: skip
    generation = dict(found.metrics)
    generation |= {k: getattr(default_sampling(model), k) for k in ("temperature", "top_p")}
    generation["round_trip"] = {"scfid": _round_trip(space, cells, test, real)}
    metrics = {
        "dataset": {
            "name": "pancreas",
            "citation": adata.uns["citation"],
            "n_cells": adata.n_obs,
            "n_genes": adata.n_vars,
            "split": {part: len(cells.rows(part)) for part in ("train", "val", "test")},
        },
        "annotation": annotation,
        "generation": generation,
        "inverse": cells.inverse.to_dict(),
        "training": {
            "parameters": model.n_parameters,
            "vocabulary": len(cells.vocabulary),
            "steps": recipe.optimisation.steps,
            "seconds": round(trained.log.seconds, 1),
        },
        "seed": seed,
        "versions": library_versions(),
    }
    return DemoResults(
        metrics=metrics,
        confusion=(list(labels), matrix),
        **_map(found, truth, seed),
        reliability=[tuple(row) for row in reliability],
        rank_points=_rank_points(cells, test, seed),
        losses=trained.log.losses,
        nearest=found.nearest,
        examples=_examples(matched, real, truth),
        metric_notes=_notes(),
        recipe=recipe.model_dump(mode="json"),
    )


def _round_trip(space: Space, cells: PreparedCells, rows: np.ndarray, real: RankedCells) -> float:
    """Return the scFID between measured expression and the same cells taken through their sentences."""
    measured = log10_normalized(cells.all_counts[rows])[:, cells.columns]
    return scfid(space.encoder.transform(measured), space.embed(real))


def _map(found: GenerationResult, truth: np.ndarray, seed: int) -> dict[str, Any]:
    """Return UMAP coordinates of held-out and generated cells together, with their types."""
    import warnings

    import umap

    both = np.concatenate([found.real, found.generated])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn says that a seed makes it use one thread
        places = umap.UMAP(n_neighbors=15, min_dist=0.3, random_state=seed, n_jobs=1).fit_transform(
            both
        )
    return {
        "umap": np.asarray(places, dtype=float),
        "umap_type": np.concatenate([truth, truth]).astype(str),
        "umap_generated": np.repeat([False, True], len(truth)),
    }


def _rank_points(
    cells: PreparedCells, rows: np.ndarray, seed: int, n: int = 15_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random part of the (log10(1 + rank), expression) points of some cells, over all genes."""
    values = log10_normalized(cells.all_counts[rows])
    ranked = rank_matrix(values, cells.all_vocabulary, cells.cell_ids[rows], seed=seed)
    x, y = rank_points(ranked)
    chosen = generator(seed, "rank points").permutation(len(x))[:n]
    return x[chosen], y[chosen]


def _examples(generated: RankedCells, real: RankedCells, truth: np.ndarray) -> list[dict[str, Any]]:
    """Return for each type the first genes of one generated cell, and the commonest first genes of real cells."""
    examples = []
    for cell_type in sorted(set(truth)):
        rows = np.flatnonzero(truth == cell_type)
        first = real.take(rows).head(12)
        common = np.argsort(
            -np.bincount(first.genes, minlength=len(real.vocabulary)), kind="stable"
        )[:12]
        examples.append(
            {
                "cell_type": str(cell_type),
                "generated": generated.words(int(rows[0]))[:12],
                "real": [real.vocabulary.words[g] for g in common],
            }
        )
    return examples


def _notes() -> dict[str, dict[str, Any]]:
    return {
        name: {"description": m.description, "best": m.best, "ideal": m.ideal}
        for name, m in METRICS.items()
    }
