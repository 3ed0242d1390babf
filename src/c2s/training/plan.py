"""What a training run would do (`--dry-run`): sizes, steps, and the memory that they take."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from c2s.common.progress import OnStage, no_progress
from c2s.models.directory import resolve_device
from c2s.training.base import change_of_shape
from c2s.training.memory import PassShape, estimate_memory, network_of_shapes
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import Prepared, prepare
from c2s.training.samples import TokenSample, split_into_passes
from c2s.training.speed import device_name, matrix_rate, training_flops

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
    samples, shape, passes = _first_steps(run)
    change = change_of_shape(recipe.base, recipe.lora, run.folder, run.data)
    # Weights in 4 bits count as bfloat16.
    half = recipe.base.quantize is not None or recipe.base.dtype == "bfloat16"
    weights_in: Literal["float32", "bfloat16"] = "bfloat16" if half else "float32"
    network = network_of_shapes(config, change, weights_in)
    parameters = list(network.parameters())
    lengths = [len(s.ids) for s in samples]
    flops_a_token = training_flops(
        network,
        tokens=sum(lengths),
        learned=_learned(run, samples),
        pairs=sum(n * n for n in lengths),
    ) / sum(lengths)
    tokens_a_step = sum(lengths) / min(_LOOKED_AT, run.n_steps)
    rate = matrix_rate(device, getattr(torch, settings.precision))
    memory = {
        choice: estimate_memory(
            config, shape, checkpointing=checkpointing, precision=settings.precision,
            optimizer=settings.optimizer, change=change, weights_in=weights_in,
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
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "flops": flops_a_token * tokens_a_step * run.n_steps,
        "device": device_name(device),
        "matrix_rate": rate,
        "tokens_per_second_at_most": round(rate / flops_a_token, 1),
        "memory": {"chosen": chosen, **memory},
        "notes": manifest["notes"],
    }


def _first_steps(run: Prepared) -> tuple[list[TokenSample], PassShape, int]:
    """Return the samples of the first steps, the largest pass of them, and the most passes of a step."""
    settings = run.recipe.optimisation
    passes, everything, n_passes = [], [], 1
    steps = run.data.stream.steps(settings.batch_size, 0, 0, 1)
    for samples in itertools.islice(steps, min(_LOOKED_AT, run.n_steps)):
        step = split_into_passes([len(s.ids) for s in samples], settings.tokens_per_pass)
        n_passes = max(n_passes, len(step))
        passes += [[samples[i] for i in p] for p in step]
        everything += samples
    largest = max(passes, key=lambda p: sum(len(s.ids) for s in p))
    shape = PassShape.of_lengths(
        [len(s.ids) for s in largest], _learned(run, largest), several=n_passes > 1
    )
    return everything, shape, n_passes


def _learned(run: Prepared, samples: list[TokenSample]) -> int:
    """Return how many tokens of samples are learned."""
    everything = run.recipe.learned == "all"
    return sum(len(s.ids) - (1 if everything else s.prompt_length) for s in samples)
