"""What a training run would do (`--dry-run`): sizes, steps, and the memory that they take."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from c2s.common.progress import OnStage, no_progress
from c2s.models.directory import resolve_device
from c2s.training.memory import PassShape, count_parameters, estimate_memory
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import Prepared, prepare
from c2s.training.samples import split_into_passes
from c2s.training.speed import device_name, matrix_rate

#: Steps that are looked at to find the largest pass.
_LOOKED_AT = 8


def plan(
    recipe: TrainingRecipe,
    folder: Path,
    *,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Return what a recipe would do; nothing is trained and nothing is left behind.

    A corpus that is drawn anew for every epoch is drawn once, in a temporary folder; weights are not read.

    Parameters
    ----------
    recipe, folder
        As in `run_recipe`.
    device
        Whose speed is measured.
    on_stage
        Told of progress.

    Returns
    -------
    dict
        `cells`, `samples`, `tokens` (of an epoch, by split or task), `steps`, `epochs`, `passes_a_step`, `parameters`,
        `trainable_parameters`, `flops`, `tokens_per_second_at_most` (if the device did nothing but matrix
        products), and `memory` in bytes: what the recipe takes, and the same with the other choice of
        `gradient_checkpointing`.

    Raises
    ------
    InputError, UsageError
        The recipe cannot work; the message names the field.
    """
    with tempfile.TemporaryDirectory(prefix="c2s-train-") as work:
        run = prepare(recipe, folder, Path(work), on_stage)
        return _facts(run, resolve_device(device))


def _facts(run: Prepared, device: str) -> dict[str, Any]:
    recipe, settings, manifest = run.recipe, run.recipe.optimisation, run.data.manifest
    config = run.config
    config.vocab_size = max(config.vocab_size, len(run.data.tokenizer.backend))
    shape, passes, tokens_a_step, squares = _largest_pass(run)
    parameters = count_parameters(config)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    # As the Trainer counts them: forward and back, and attention where tokens see each other.
    flops_a_step = (
        6 * parameters.body * tokens_a_step + 6 * config.num_hidden_layers * width * squares
    )
    rate = matrix_rate(device, getattr(torch, settings.precision))
    memory = {
        choice: estimate_memory(
            config, shape, checkpointing=checkpointing, precision=settings.precision,
            optimizer=settings.optimizer,
        ).to_dict()
        for choice, checkpointing in (("gradient_checkpointing", True), ("no_checkpointing", False))
    }  # fmt: skip
    chosen = "gradient_checkpointing" if recipe.base.gradient_checkpointing else "no_checkpointing"
    return {
        "stage": recipe.stage,
        "base": recipe.base.preset or recipe.base.model,
        "cells": manifest["cells"],
        "samples": manifest["samples"]["train"],
        "tokens": run.data.tokens,
        "steps": run.n_steps,
        "epochs": round(run.n_steps * settings.batch_size / run.data.stream.n_items, 2),
        "batch_size": settings.batch_size,
        "passes_a_step": passes,
        "tokens_a_pass": shape.n_tokens,
        "parameters": parameters.all,
        "trainable_parameters": parameters.trainable,
        "flops": float(flops_a_step * run.n_steps),
        "device": device_name(device),
        "matrix_rate": rate,
        "tokens_per_second_at_most": round(rate * tokens_a_step / flops_a_step, 1),
        "memory": {"chosen": chosen, **memory},
        "notes": manifest["notes"],
    }


def _largest_pass(run: Prepared) -> tuple[PassShape, int, float, float]:
    """Return the largest pass of the first steps, the most passes of a step, and a step's tokens and their squares.

    The last are means: of a step's tokens, and of the sum of its samples' squared lengths.
    """
    settings = run.recipe.optimisation
    passes, n_passes, tokens, squares = [], 1, [], []
    steps = run.data.stream.steps(settings.batch_size, 0, 0, 1)
    for samples in itertools.islice(steps, min(_LOOKED_AT, run.n_steps)):
        lengths = [len(s.ids) for s in samples]
        tokens.append(sum(lengths))
        squares.append(sum(n * n for n in lengths))
        step = split_into_passes(lengths, settings.tokens_per_pass)
        n_passes = max(n_passes, len(step))
        passes += [[samples[i] for i in p] for p in step]
    largest = max(passes, key=lambda p: sum(len(s.ids) for s in p))
    behind = [1 if run.recipe.learned == "all" else s.prompt_length for s in largest]
    learned = sum(len(s.ids) - b for s, b in zip(largest, behind, strict=True))
    lengths = [len(s.ids) for s in largest]
    shape = PassShape.of_lengths(lengths, learned, several=n_passes > 1)
    shape = PassShape(
        shape.n_samples, shape.sample_tokens, min(learned, shape.n_tokens), shape.several
    )
    return shape, n_passes, math.fsum(tokens) / len(tokens), math.fsum(squares) / len(squares)
