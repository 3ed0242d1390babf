"""From labelled counts to a model that annotates and generates: the recipe that `c2s train` and `c2s demo` run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field

from c2s.cells.checks import check_expression, matrix_kind
from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.readers import expression, read
from c2s.cells.sentences import fit_inverse
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.config import Config
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.files import atomic_directory, refuse_foreign, sha256
from c2s.common.progress import OnStage, no_progress
from c2s.corpus.online import CellTable, OnlineExamples, TaskMix
from c2s.corpus.splits import split_cells
from c2s.datasets import pancreas
from c2s.models.directory import Model, ModelCard, library_versions, new_model
from c2s.models.presets import get_preset
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, train_text_tokenizer
from c2s.training.sft import Optimisation, TrainingLog

if TYPE_CHECKING:
    from anndata import AnnData


class Columns(Config):
    """Columns of `obs` that hold what prompts name."""

    cell_type: str = Field("cell_type", description="Column with the label.")
    organism: str | None = Field(
        None,
        description="Column with the organism, as 'Homo sapiens'; by default `organism`, else Homo sapiens.",
    )


class TrainSettings(Config):
    """What is trained and how: everything of a training run but the cells."""

    preset: str = Field("mini", description="Shape of the model; see `c2s.models.presets`.")
    top_k: int = Field(100, ge=1, description="Genes of a cell sentence.")
    min_cells: int = Field(
        3,
        ge=1,
        description="A gene is in the vocabulary if it is among the top K of so many training cells.",
    )
    tasks: dict[Literal["cell_type", "cond_cell", "sc_lm"], TaskMix] = Field(
        min_length=1, description="Tasks to train on, with their weights and how cells are varied."
    )
    prompts: str = Field("c2s", description="Prompt pack.")
    text_tokens: int = Field(
        640, ge=300, description="Size of the text tokenizer trained on the prompts."
    )
    optimisation: Optimisation = Field(description="How long and how fast.")
    temperatures: list[float] = Field(
        [1.0],
        min_length=1,
        description="Sampling temperatures to try on validation cells; the best is kept.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sampling keeps the most probable tokens that together reach this.",
    )
    views: int = Field(
        1, ge=1, description="Wordings and draws of ties that the demo averages in annotation."
    )


class TrainRecipe(TrainSettings):
    """A training run on labelled cells, from random weights."""

    data: str = Field(
        description="Path of a data set with raw counts and labels, or 'pancreas', the packaged one."
    )
    split: tuple[float, float, float] = Field(
        (0.7, 0.1, 0.2), description="Shares of train, val and test."
    )
    columns: Columns = Field(default_factory=Columns, description="Columns of obs to read.")
    seed: int = Field(0, ge=0, description="Draws the split, weights, examples and ties.")


def load_data(recipe: TrainRecipe) -> AnnData:
    """Return the recipe's data set."""
    if recipe.data == "pancreas":
        return pancreas()
    return read(recipe.data)


def plan(recipe: TrainRecipe) -> dict[str, Any]:
    """Say what a recipe would do, after checking everything that can be checked without training.

    Returns
    -------
    dict
        Cells by part, genes, parameters, examples, tokens (measured on 64 examples) and memory of the weights
        with gradients and optimiser state in bytes.
    """
    from c2s.training.sft import Collator

    cells = prepare(load_data(recipe), recipe)
    model = build_model(cells, recipe, _dataset_name(recipe), shape_only=True)
    mixes: dict[str, TaskMix] = {str(task): mix for task, mix in recipe.tasks.items()}
    examples = recipe.optimisation.steps * recipe.optimisation.batch_size
    stream = OnlineExamples(
        cells.table(cells.rows("train")),
        mixes,
        model.prompts,
        recipe.top_k,
        max(examples, 64),
        recipe.seed,
    )
    batch = Collator(
        model.tokenizer, stream.task_ids, model.network.config.max_position_embeddings
    )(stream.draw(range(64)))
    return {
        "cells": {part: len(cells.rows(part)) for part in ("train", "val", "test")},
        "cell types": len(model.known("cell_type")),
        "genes": len(cells.vocabulary),
        "parameters": model.n_parameters,
        "steps": recipe.optimisation.steps,
        "examples": examples,
        "tokens": round(int(batch["attention_mask"].sum()) / 64 * examples),
        "bytes of weights, gradients and optimiser": 16 * model.n_parameters,
    }


def run_training(
    recipe: TrainRecipe,
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Run a recipe and leave a directory: `model/`, `recipe.json`, `losses.jsonl`, `split.csv`, `manifest.json`.

    The directory appears when everything is complete.

    Raises
    ------
    UsageError
        `out` exists and is not an earlier run.
    """
    out = Path(out)
    refuse_foreign(out, {"model", "recipe.json", "losses.jsonl", "split.csv", "manifest.json"})
    name = _dataset_name(recipe)
    trained = train_model(load_data(recipe), recipe, name, device=device, on_stage=on_stage)
    losses = trained.log.losses
    final = {x["task"]: round(x["loss"], 4) for x in losses if x["split"] == "val"}
    manifest = {
        "data": {
            "name": name,
            "sha256": sha256(recipe.data) if Path(recipe.data).is_file() else None,
        },
        "cells": trained.model.card.training["cells"],
        "validation_loss": final,
        "seed": recipe.seed,
        "seconds": {k: round(v, 1) for k, v in trained.seconds.items()},
        "versions": library_versions(),
    }
    with atomic_directory(out) as folder:
        trained.model.save(folder / "model")
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1) + "\n", "utf-8")
        (folder / "losses.jsonl").write_text("".join(json.dumps(x) + "\n" for x in losses), "utf-8")
        split = pd.DataFrame({"cell_id": trained.cells.cell_ids, "split": trained.cells.split})
        split.to_csv(folder / "split.csv", index=False)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return manifest


def _dataset_name(recipe: TrainRecipe) -> str:
    return Path(recipe.data).name.split(".")[0]


@dataclass(frozen=True)
class PreparedCells:
    """Labelled cells, split, in the genes of a model.

    Attributes
    ----------
    counts : csr_matrix, shape (n_cells, n_genes)
        Over the model's vocabulary.
    all_counts : csr_matrix, shape (n_cells, n_all_genes)
        Over all genes of the data.
    all_vocabulary
        All genes of the data.
    vocabulary, columns
        The model's genes, and the columns of `all_counts` that they are.
    cell_ids, labels, organism, split : object arrays, shape (n_cells,)
    inverse
        Fitted on training cells over all genes, then naming the model's genes.
    """

    counts: sp.csr_matrix
    all_counts: sp.csr_matrix
    all_vocabulary: GeneVocabulary
    vocabulary: GeneVocabulary
    columns: np.ndarray
    cell_ids: np.ndarray
    labels: np.ndarray
    organism: np.ndarray
    split: np.ndarray
    inverse: RankExpressionModel

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of "train", "val" or "test". int64."""
        return np.flatnonzero(self.split == part)

    def ranked(self, rows: np.ndarray, top_k: int, seed: int) -> RankedCells:
        """Rank some of the cells in the model's genes."""
        return rank_matrix(
            self.counts[rows], self.vocabulary, self.cell_ids[rows], top_k=top_k, seed=seed
        )

    def table(self, rows: np.ndarray) -> CellTable:
        """Return some of the cells for drawing examples."""
        fields = {"cell_type": self.labels[rows], "organism": self.organism[rows]}
        return CellTable(self.counts[rows], self.vocabulary, self.cell_ids[rows], fields)


def prepare(adata: AnnData, recipe: TrainRecipe) -> PreparedCells:
    """Check and split the cells, choose the model's genes and fit the inverse, on training cells only.

    Raises
    ------
    InputError
        The matrix does not hold counts, a label is missing, or cells without expression are among them.
    UsageError
        `obs` lacks the label column.
    """
    labels = _column(adata, recipe.columns.cell_type)
    organism_column = recipe.columns.organism or ("organism" if "organism" in adata.obs else None)
    organism = (
        _column(adata, organism_column)
        if organism_column
        else np.full(adata.n_obs, "Homo sapiens", dtype=object)
    )
    all_counts, vocabulary, ids = read_counts(adata)
    split = split_cells(labels, recipe.split, recipe.seed)
    train = np.flatnonzero(split == "train")
    top = rank_matrix(
        all_counts[train], vocabulary, ids[train], top_k=recipe.top_k, seed=recipe.seed
    )
    columns = np.flatnonzero(np.bincount(top.genes, minlength=len(vocabulary)) >= recipe.min_cells)
    if len(columns) <= recipe.top_k:
        raise InputError(
            f"only {len(columns):,} genes are among the top {recipe.top_k} of {recipe.min_cells} training cells, "
            "too few "
            "for sentences of that length; use a smaller top_k or more cells"
        )
    chosen = GeneVocabulary.from_words(
        [vocabulary.words[c] for c in columns], [vocabulary.symbols[c] for c in columns]
    )
    line = fit_inverse(adata[train], seed=recipe.seed)
    inverse = RankExpressionModel.from_dict(line.to_dict(), chosen)
    return PreparedCells(
        all_counts[:, columns].tocsr(),
        all_counts,
        vocabulary,
        chosen,
        columns,
        ids,
        labels,
        organism,
        split,
        inverse,
    )


def read_counts(
    adata: AnnData, layer: str | None = None
) -> tuple[sp.csr_matrix, GeneVocabulary, np.ndarray]:
    """Return checked raw counts, CSR float32 (n_cells, n_genes), the genes of the columns, and the names of the cells.

    Parameters
    ----------
    adata
        Cells × genes.
    layer
        None for `X`, "raw" for `adata.raw`, else a layer.

    Raises
    ------
    InputError
        The matrix does not hold counts, names repeat, or cells without expression are among them.
    UsageError
        There is no such layer.
    """
    matrix, var = expression(adata, layer)
    if not adata.obs_names.is_unique:
        raise InputError(
            "cell names occur more than once; call adata.obs_names_make_unique() first"
        )
    ids = adata.obs_names.to_numpy(dtype=object)
    vocabulary = GeneVocabulary.from_var(var)
    counts = sp.csr_matrix(matrix).astype(np.float32)
    where = layer or "X"
    check_expression(counts, cell_ids=ids, gene_names=vocabulary.names, source=where)
    if matrix_kind(counts) != "counts":
        raise InputError(
            f"{where} does not hold whole counts; training ranks thinned counts, so put raw counts into {where}"
        )
    empty = np.flatnonzero(np.asarray(counts.sum(1)).ravel() == 0)
    if len(empty):
        raise InputError(
            f"{len(empty):,} cells express nothing (first: {ids[empty[0]]!r}); "
            "drop them with sc.pp.filter_cells(adata, min_genes=1)"
        )
    return counts, vocabulary, ids


def _column(adata: AnnData, name: str) -> np.ndarray:
    if name not in adata.obs:
        raise UsageError(
            f"obs has no column {name!r}; it has: {listing([str(c) for c in adata.obs.columns]) or 'none'}"
        )
    column = adata.obs[name]
    if column.isna().any():
        first = adata.obs_names[column.isna()][0]
        raise InputError(
            f"obs[{name!r}] is missing for {int(column.isna().sum()):,} cells (first: {first!r}); drop or label them"
        )
    return column.astype(str).to_numpy(dtype=object)


def build_model(
    cells: PreparedCells, recipe: TrainRecipe, dataset: str, *, shape_only: bool = False
) -> Model:
    """Make a model of the recipe's shape from random weights, with a tokenizer for its prompts and genes.

    Raises
    ------
    UsageError
        A prompt with `top_k` genes does not fit into the context of the preset.
    """
    prompts = load_prompts(recipe.prompts)
    train = cells.rows("train")
    conditions = {
        "cell_type": sorted(set(cells.labels[train])),
        "organism": sorted(set(cells.organism[train])),
    }
    backend = train_text_tokenizer(_prompt_texts(prompts, recipe, conditions), recipe.text_tokens)
    add_gene_tokens(backend, cells.vocabulary)
    card = ModelCard(
        vocabulary=list(cells.vocabulary.words),
        symbols=list(cells.vocabulary.symbols),
        mode="genes",
        top_k=recipe.top_k,
        preprocessing={"target_sum": cells.inverse.target_sum, "log_base": 10},
        prompts=recipe.prompts,
        wording={} if recipe.prompts in ("c2s", "upstream") else prompts.texts(),
        tasks=sorted(recipe.tasks),
        conditions=conditions,
        inverse={dataset: cells.inverse.to_dict()},
        gene_frequencies=np.bincount(
            cells.ranked(train, recipe.top_k, recipe.seed).genes, minlength=len(cells.vocabulary)
        ).tolist(),
    )
    tokenizer = CellTokenizer(backend, cells.vocabulary, "genes")
    # A gene is one token; of what else an example holds, the longest text of each task counts.
    texts = _prompt_texts(prompts, recipe, conditions)
    longest = recipe.top_k + 1 + 2 * max(len(tokenizer.encode([text])) for text in texts)
    context = get_preset(recipe.preset).context
    if longest > context:
        raise UsageError(
            f"top_k = {recipe.top_k}: an example takes up to {longest:,} tokens, and the context of "
            f"{recipe.preset!r} is {context:,}; use a smaller top_k"
        )
    return new_model(recipe.preset, tokenizer, card, recipe.seed, shape_only=shape_only)


def _prompt_texts(
    prompts: PromptPack, recipe: TrainRecipe, conditions: dict[str, list[str]]
) -> list[str]:
    """Return what the text tokenizer is trained on: every wording with every value, cells left out."""
    texts = []
    for task in sorted(recipe.tasks):
        wording = prompts.wording(task)
        for template in (*wording.prompts, wording.response):
            for cell_type in conditions["cell_type"]:
                for organism in conditions["organism"]:
                    values: dict[str, str | int | np.ndarray] = {
                        "cell_type": cell_type,
                        "organism": organism,
                        "num_genes": recipe.top_k,
                        "cell_sentence": "",
                    }
                    texts.append("".join(str(s) for s in template.fill(values)))
    return texts


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with what it was trained on and how that went."""

    model: Model
    cells: PreparedCells
    log: TrainingLog
    seconds: dict[str, float]


def train_model(
    adata: AnnData,
    recipe: TrainRecipe,
    dataset: str,
    *,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> TrainedModel:
    """Run a recipe: prepare, build, train, choose the temperature on validation cells.

    Parameters
    ----------
    adata
        Raw counts with labels.
    recipe
        What to do.
    dataset
        Name that the inverse model is kept under.
    device
        "cpu" keeps off a GPU.
    on_stage
        Called with the name of a stage and its number of steps; returns what is told of finished steps.
    """
    from c2s.training.sft import train

    seconds: dict[str, float] = {}
    started = time.perf_counter()
    cells = prepare(adata, recipe)
    model = build_model(cells, recipe, dataset)
    prompts = load_prompts(recipe.prompts)
    mixes: dict[str, TaskMix] = {str(task): mix for task, mix in recipe.tasks.items()}
    needed = recipe.optimisation.steps * recipe.optimisation.batch_size
    stream = OnlineExamples(
        cells.table(cells.rows("train")), mixes, prompts, recipe.top_k, needed, recipe.seed
    )
    val = cells.rows("val")
    # Validation cells are shown whole, each about once a task.
    whole = {task: TaskMix() for task in mixes}
    validation = (
        OnlineExamples(
            cells.table(val), whole, prompts, recipe.top_k, len(val) * len(mixes), recipe.seed
        )
        if len(val)
        else None
    )
    seconds["prepare"] = time.perf_counter() - started
    log = train(
        model, stream, recipe.optimisation, validation=validation, seed=recipe.seed, device=device,
        progress=on_stage("Training", recipe.optimisation.steps),
    )  # fmt: skip
    seconds["train"] = log.seconds
    started = time.perf_counter()
    chosen = {}
    if "cond_cell" in recipe.tasks and len(val):
        chosen = {
            "top_p": recipe.top_p,
            "temperature": choose_temperature(
                model, cells, recipe, on_stage("Choosing temperature", len(recipe.temperatures))
            ),
        }
    seconds["choose temperature"] = time.perf_counter() - started
    facts: dict[str, Any] = {
        "dataset": dataset,
        "cells": {part: len(cells.rows(part)) for part in ("train", "val", "test")},
        "recipe": recipe.model_dump(mode="json"),
        "losses": log.losses[-2 * len(mixes) :],
        "seconds": round(log.seconds, 1),
    }
    model.card = model.card.model_copy(update={"generation": chosen, "training": facts})
    return TrainedModel(model, cells, log, seconds)


def choose_temperature(
    model: Model, cells: PreparedCells, recipe: TrainRecipe, progress: Callable[[int], None]
) -> float:
    """Return the temperature whose cells are nearest to the validation cells in energy distance.

    Two cells are generated for each validation cell, of its type; test cells are not looked at.
    """
    from c2s.analysis.generate import generate_cells
    from c2s.decoding.sampling import Sampling
    from c2s.evaluate.generation import Space
    from c2s.metrics import energy_distance

    val = cells.rows("val")
    # Too few cells tell nothing; the first temperature of the recipe is then kept.
    if len(recipe.temperatures) == 1 or len(val) < 10 or len(cells.rows("train")) < 50:
        return recipe.temperatures[0]
    space = Space.fit(cells.ranked(cells.rows("train"), recipe.top_k, recipe.seed), cells.inverse)
    real = space.embed(cells.ranked(val, recipe.top_k, recipe.seed))
    wanted = np.repeat(cells.labels[val], 2)
    distances = []
    for temperature in recipe.temperatures:
        sampling = Sampling(temperature=temperature, top_p=recipe.top_p, seed=recipe.seed)
        generated = generate_cells(
            model, wanted, np.repeat(cells.organism[val], 2), top_k=recipe.top_k, sampling=sampling
        )
        distances.append(energy_distance(real, space.embed(generated)))
        progress(1)
    return recipe.temperatures[int(np.argmin(distances))]
