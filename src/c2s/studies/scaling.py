"""Scaling studies (SPEC §16): a grid of trainings, what each is worth on held-out samples, and power laws of it.

The grid is sizes × shares of the data × {all weights, adapter} × seeds. Every cell of it is a training run in a folder
of its own, so that a study that was stopped goes on, and sizes or shares that are added later train only what is new.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from c2s.common.errors import UsageError
from c2s.common.files import atomic_directory, atomic_file, json_able, refuse_foreign, sha256
from c2s.common.progress import OnStage, no_progress
from c2s.corpus.build import build_from
from c2s.corpus.recipe import CorpusRecipe, read_recipe
from c2s.corpus.show import corpus_tokenizer, read_manifest
from c2s.models.card import ModelCard
from c2s.models.directory import load_model, new_model
from c2s.models.presets import small_shape
from c2s.studies.scaling_measures import held_out_samples, measure
from c2s.studies.scaling_recipe import Method, ScalingRecipe, SizeRecipe
from c2s.studies.scaling_results import Result, summarise, write_results
from c2s.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from c2s.metrics.texts import TextEncoder
    from c2s.training.samples import TokenSample

#: What a study leaves in its folder.
WRITTEN = {
    "recipe.yaml", "data", "bases", "cells", "results.json", "results.csv", "figures",
}  # fmt: skip


@dataclass(frozen=True)
class GridCell:
    """One training of a study.

    Attributes
    ----------
    size
        Of the family.
    fraction
        Share of the training samples.
    method
        All weights, or an adapter.
    seed
        Of weights and order.
    """

    size: SizeRecipe
    fraction: float
    method: Method
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.size.name}-{self.fraction:g}-{self.method}-seed{self.seed}"


def grid(recipe: ScalingRecipe) -> list[GridCell]:
    """Return the cells of a study, bases of adapters before these."""
    cells = []
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        for size in recipe.sizes:
            full = [GridCell(size, f, "full", seed) for f in sorted(recipe.fractions)]
            lora = [
                GridCell(size, f, "lora", seed)
                for f in sorted(recipe.fractions)
                if recipe.adapters and (size.model or f > recipe.adapter_base)
            ]
            cells += full + lora
    return cells


def training_recipe(recipe: ScalingRecipe, cell: GridCell, folder: Path) -> TrainingRecipe:
    """Return the training of a cell; its paths begin in the folder of the study.

    Parameters
    ----------
    recipe, cell
        The study, and one of its trainings.
    folder
        Where relative paths of the study's recipe begin.

    Raises
    ------
    UsageError
        There can be no such training.
    """
    size, settings = cell.size, recipe.optimisation
    adapters = recipe.adapters if cell.method == "lora" else None
    if adapters is not None and adapters.optimisation is not None:
        settings = adapters.optimisation
    elif size.learning_rate is not None:
        settings = settings.model_copy(update={"learning_rate": size.learning_rate})
    content: dict[str, Any] = {
        "stage": recipe.stage,
        "base": {
            **_base(recipe, cell, folder),
            "gradient_checkpointing": size.gradient_checkpointing,
        },
        "data": {"corpus": f"data/{cell.fraction:g}", "validation": recipe.validation},
        "optimisation": settings.model_dump(mode="json"),
        "evaluation": recipe.evaluation.model_dump(mode="json"),
        "save_every": recipe.evaluation.every,
        "keep_checkpoints": 1,
        "seed": cell.seed,
    }
    if adapters is not None:
        content["lora"] = {**adapters.settings, "keep": "merged"}
    return TrainingRecipe.parse(content, f"scaling, {cell.name}")


def _base(recipe: ScalingRecipe, cell: GridCell, folder: Path) -> dict[str, Any]:
    """Return what a cell starts from, as a training recipe says it."""
    size = cell.size
    if size.model is not None:
        local = folder / size.model
        return {"model": str(local.resolve()) if local.is_dir() else size.model}
    if cell.method == "lora":
        base = GridCell(size, recipe.adapter_base, "full", cell.seed)
        return {"model": f"cells/{base.name}/training/model"}
    if size.preset is not None:
        return {"preset": size.preset}
    return {"model": f"bases/{_base_name(cell)}"}


def run_scaling(
    recipe: ScalingRecipe,
    folder: Path,
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    workers: int | None = None,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Run a scaling study, or go on with one.

    Parameters
    ----------
    recipe
        What to do.
    folder
        Where its relative paths begin.
    out
        Gets `results.json`, `results.csv` and `figures/`, and keeps corpora (`data/`) and trainings (`cells/`).
        What is there of the same study is not done again.
    device
        "cpu" keeps off a GPU; by default the best there is.
    workers
        Processes that build corpora; by default one a core.
    on_stage
        Told of progress.

    Returns
    -------
    dict
        As in `results.json`: `points`, one for each training, task and metric, and `fits`.

    Raises
    ------
    UsageError
        The recipe cannot work, or `out` holds another study.
    C2SError
        A corpus cannot be built, or a loss is no longer a number.
    """
    out = Path(out)
    cells = grid(recipe)
    trainings = [training_recipe(recipe, cell, folder) for cell in cells]
    drawn, place = _corpus_recipe(recipe, folder)
    _check_out(recipe, drawn, out)
    for cell, training in zip(cells, trainings, strict=True):
        _check_cell(cell, training, out)
    _leave_recipe(recipe, drawn, out)
    _build_corpora(recipe, drawn, place, out, workers, on_stage)
    samples = held_out_samples(
        out / "data" / f"{max(recipe.fractions):g}", recipe.held_out, recipe.seed
    )
    encoder = _encoder(recipe, folder)
    results = []
    for number, (cell, training) in enumerate(zip(cells, trainings, strict=True), 1):

        def stage(name: str, total: int, label: str = f"{number}/{len(cells)} {cell.name}") -> Any:
            return on_stage(f"{label}: {name}", total)

        _train(recipe, cell, training, drawn, out, device, stage)
        results.append(_measured(recipe, cell, samples, encoder, out, device, stage))
    summary: dict[str, Any] = json_able(summarise(recipe, results))
    write_results(summary, out)
    return summary


def _corpus_recipe(recipe: ScalingRecipe, folder: Path) -> tuple[CorpusRecipe, Path]:
    """Return the recipe of the whole corpus, and where its relative paths begin."""
    if isinstance(recipe.corpus, CorpusRecipe):
        return recipe.corpus, folder
    path = folder / recipe.corpus
    return read_recipe(path), path.resolve().parent


def _check_out(recipe: ScalingRecipe, drawn: CorpusRecipe, out: Path) -> None:
    """Refuse a folder of something else or of other data.

    Raises
    ------
    UsageError
        It holds foreign files, or a study on another corpus.
    """
    refuse_foreign(out, WRITTEN)
    path = out / "recipe.yaml"
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text("utf-8"))
    same = {
        "corpus": drawn.is_what_stands_in(before.get("corpus")),
        "stage": before.get("stage") == recipe.stage,
        "seed": before.get("seed") == recipe.seed,
    }
    for name, is_same in same.items():
        if not is_same:
            raise UsageError(
                f"{out}: holds a study with another {name!r}; give another folder with --out"
            )


def _check_cell(cell: GridCell, training: TrainingRecipe, out: Path) -> None:
    """Refuse a folder that holds another training of a cell.

    Raises
    ------
    UsageError
        It does.
    """
    place = out / "cells" / cell.name / "training"
    there = place / "recipe.yaml"
    if there.is_file() and not training.is_what_stands_in(yaml.safe_load(there.read_text("utf-8"))):
        raise UsageError(
            f"{place}: holds a training with other settings; remove it to train it anew, or give another folder "
            "with --out"
        )


def _leave_recipe(recipe: ScalingRecipe, drawn: CorpusRecipe, out: Path) -> None:
    """Write what the study is, with the recipe of its corpus in full."""
    out.mkdir(parents=True, exist_ok=True)
    content = {**recipe.model_dump(mode="json"), "corpus": drawn.model_dump(mode="json")}
    with atomic_file(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def _build_corpora(
    recipe: ScalingRecipe,
    drawn: CorpusRecipe,
    place: Path,
    out: Path,
    workers: int | None,
    on_stage: OnStage,
) -> None:
    """Build the corpus of each share of the data; all have the tokenizer of the largest."""
    largest = max(recipe.fractions)
    for fraction in sorted(recipe.fractions, reverse=True):
        path = out / "data" / f"{fraction:g}"
        if (path / "manifest.json").is_file():
            continue
        changes: dict[str, Any] = {
            "samples_per_cell": drawn.samples_per_cell * fraction,
            "samples_per_gene_set": max(1, round(drawn.samples_per_gene_set * fraction)),
        }
        if fraction != largest:
            changes["tokenizer"] = str((out / "data" / f"{largest:g}" / "tokenizer").resolve())
        build_from(
            drawn.model_copy(update=changes), place, path, workers=workers, on_stage=on_stage
        )


def _encoder(recipe: ScalingRecipe, folder: Path) -> TextEncoder | None:
    """Return what BERTScore is measured with, opened before hours are spent on trainings."""
    if recipe.bertscore is None:
        return None
    from c2s.encoders.text import TransformerTextEncoder

    return TransformerTextEncoder(
        folder / recipe.bertscore.folder, num_layers=recipe.bertscore.layers
    )


def _train(
    recipe: ScalingRecipe, cell: GridCell, training: TrainingRecipe, drawn: CorpusRecipe, out: Path,
    device: str | None, on_stage: OnStage,
) -> None:  # fmt: skip
    """Train a cell, go on with its training, or leave a finished one as it is; an adapter anew on another base."""
    from c2s.training.loop import complete_checkpoints
    from c2s.training.run import run_recipe

    folder = out / "cells" / cell.name
    place = folder / "training"
    _check_base(folder, _base_run(recipe, cell, out))
    if (place / "run.json").is_file():
        return
    if cell.size.shape is not None and cell.method == "full":
        _leave_base(cell, cell.size.shape, drawn, out)
    shutil.rmtree(folder / "measured", ignore_errors=True)
    begun = bool(complete_checkpoints(place / "checkpoints"))
    run_recipe(training, out, place, resume=begun, device=device, on_stage=on_stage)
    # The optimiser's state takes twice the room of the model, and nothing goes on from here.
    shutil.rmtree(place / "checkpoints", ignore_errors=True)


def _base_run(recipe: ScalingRecipe, cell: GridCell, out: Path) -> str | None:
    """Return the SHA-256 of the facts of the training that made an adapter's base; None for other bases."""
    if cell.method == "full" or cell.size.model is not None:
        return None
    base = GridCell(cell.size, recipe.adapter_base, "full", cell.seed)
    return sha256(out / "cells" / base.name / "training" / "run.json")


def _check_base(folder: Path, base: str | None) -> None:
    """Note what base the adapter of a cell stands on; remove what was trained on another one."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "base.json"
    if base is None:
        return
    if note.is_file() and json.loads(note.read_text("utf-8"))["run"] != base:
        shutil.rmtree(folder / "training", ignore_errors=True)
    with atomic_file(note) as path:
        path.write_text(json.dumps({"run": base}), "utf-8")


def _base_name(cell: GridCell) -> str:
    """Return the name of the random weights of a cell: with the shape, so that another shape is another training."""
    shape = "" if cell.size.shape is None else "-" + "x".join(map(str, cell.size.shape))
    return f"{cell.size.name}{shape}-seed{cell.seed}"


def _leave_base(
    cell: GridCell, shape: tuple[int, int, int], drawn: CorpusRecipe, out: Path
) -> None:
    """Write the random weights that a shape starts from, as a model directory; the same for the same seed."""
    place = out / "bases" / _base_name(cell)
    if (place / "c2s.json").is_file():
        return
    corpus = out / "data" / f"{cell.fraction:g}"
    tokenizer = corpus_tokenizer(corpus, read_manifest(corpus))
    card = ModelCard(
        vocabulary=list(tokenizer.vocabulary.words),
        symbols=list(tokenizer.vocabulary.symbols),
        mode=tokenizer.mode,
        top_k=drawn.most_genes,
    )
    new_model(small_shape(*shape, drawn.context), tokenizer, card, cell.seed).save(place)


def _measured(
    recipe: ScalingRecipe,
    cell: GridCell,
    samples: dict[str, list[TokenSample]],
    encoder: TextEncoder | None,
    out: Path,
    device: str | None,
    on_stage: OnStage,
) -> Result:
    """Return what a trained cell is worth, from its folder where it was measured in the same way before."""
    folder = out / "cells" / cell.name
    how = {
        "held_out": recipe.held_out, "generated": recipe.generated, "temperature": recipe.temperature,
        "bertscore": None if recipe.bertscore is None else recipe.bertscore.model_dump(),
        "measured_on": f"{max(recipe.fractions):g}", "seed": recipe.seed,
        "training": sha256(folder / "training" / "run.json"), "base": _base_run(recipe, cell, out),
    }  # fmt: skip
    place = folder / "measured"
    if (place / "how.json").is_file() and json.loads(
        (place / "how.json").read_text("utf-8")
    ) == how:
        return _read(cell, place)
    on_stage("Measuring", 1)
    model = load_model(folder / "training" / "model", device=device)
    values = measure(
        model, samples, generated=recipe.generated, temperature=recipe.temperature, seed=recipe.seed,
        tokens_per_pass=recipe.optimisation.tokens_per_pass, encoder=encoder,
    )  # fmt: skip
    facts = _facts(recipe, cell, model.network, out)
    with atomic_directory(place) as temporary:
        named: dict[str, Any] = {f"{task}.{metric}": v for (task, metric), v in values.items()}
        np.savez_compressed(temporary / "samples.npz", **named)
        (temporary / "facts.json").write_text(json.dumps(json_able(facts)), "utf-8")
        (temporary / "how.json").write_text(json.dumps(how), "utf-8")
    return _read(cell, place)


def _read(cell: GridCell, place: Path) -> Result:
    """Return what was measured of a cell."""
    facts = json.loads((place / "facts.json").read_text("utf-8"))
    with np.load(place / "samples.npz") as arrays:
        values = {tuple(name.split(".")): arrays[name] for name in arrays.files}
    return Result(cell.size.name, cell.fraction, cell.method, cell.seed, facts, values)


def _facts(recipe: ScalingRecipe, cell: GridCell, network: Any, out: Path) -> dict[str, Any]:
    """Return what a training cost: weights, samples, tokens and operations."""
    training = out / "cells" / cell.name / "training"
    run = json.loads((training / "run.json").read_text("utf-8"))
    manifest = read_manifest(out / "data" / f"{cell.fraction:g}")
    n_samples = sum(manifest["samples"]["train"].values())
    items = n_samples if recipe.stage == "sft" else int(manifest["sequences"]["train"])
    used = yaml.safe_load((training / "recipe.yaml").read_text("utf-8"))["optimisation"]
    # Of the run's own counts those of a run that was stopped are of its last part only.
    epochs = run["steps"] * used["batch_size"] / items
    tokens = round(epochs * sum(manifest["tokens"]["train"].values()))
    body, whole = count_weights(network)
    # An adapter needs no gradients of the weights: forward, and back through the activations.
    per_token = 6 if cell.method == "full" else 4
    return {
        "parameters": whole, "body": body, "train_samples": n_samples, "steps": run["steps"],
        "epochs": round(epochs, 3), "tokens": tokens, "flops": float(per_token * body * tokens),
        "seconds": run["seconds"],
    }  # fmt: skip


def count_weights(network: Any) -> tuple[int, int]:
    """Return the weights of a network without and with its tables of tokens, input and output."""
    whole = sum(p.numel() for p in network.parameters())
    tables = {
        id(t.weight): t.weight.numel()
        for t in (network.get_input_embeddings(), network.get_output_embeddings())
        if t is not None
    }
    return whole - sum(tables.values()), whole


def plan(recipe: ScalingRecipe, folder: Path) -> Iterator[str]:
    """Yield a line for each training that a study makes; everything that can be refused without data has been.

    Raises
    ------
    UsageError
        The recipe cannot work.
    """
    _corpus_recipe(recipe, folder)
    for cell in grid(recipe):
        training = training_recipe(recipe, cell, folder)
        base = training.base.preset or training.base.model
        yield f"{cell.name}: from {base}"
