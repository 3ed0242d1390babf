"""A run of alignment: from a recipe to a model directory, resumable at every checkpoint.

A run leaves what a training run leaves. A line of its `log.jsonl` is a step, or a measurement behind it or before the
first. Beside what `RunLog` and the Trainer write, a step has these numbers; at `policy.iterations` above 1, those of
the drawing of answers stand at the steps that drew some.

- `loss`, `grad_norm` before clipping, `learning_rate`
- `reward`, `reward_std`: the weighted sum of the rewards, its mean and standard deviation over the answers
- `rewards/NAME/mean`, `rewards/NAME/std`: of one reward, unweighted
- `frac_reward_zero_std`: share of answers whose group was rewarded alike, from which nothing is learned
- `kl`: divergence from the model that training began with, a mean over tokens, in nats
- `entropy`: of the choice of a token among what was allowed, a mean over tokens, in nats
- `allowed`, `kl_allowed`, where `policy.beta_allowed` weighs something: the probability that the network itself gives
  to all that was allowed, and its divergence from the reference's, in nats; means over tokens
- `clip_ratio/low_mean`, `high_mean`, `region_mean`: share of tokens whose importance ratio was clipped
- `completions/mean_length`, `min_length`, `max_length`: tokens of an answer
- `num_tokens`: of prompts and answers since the run began; `tokens` are those of answers since this process began
- `watch/NAME`: of the answers of this step beside training cells, rewarded or not (`rewards.watch`)
- `time/rollout`, `time/reward`, `time/watch`: seconds of drawing, rewarding and watching; `time/drawn`: of all of that
  with the log-probabilities of the old policy and the reference; `step_time`: of the whole step
- `eval_NAME`, at a measurement: of cells generated for the conditions of validation cells; `eval_accuracy_TASK`: of
  labels of validation cells
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback

from c2s.common.errors import InputError, UsageError, listing, missing_extra, warn
from c2s.common.files import atomic_file, json_able
from c2s.common.progress import OnStage, no_progress
from c2s.common.transformers_log import quiet_transformers
from c2s.corpus.redrawn import RedrawnCorpus
from c2s.corpus.show import read_manifest, split_digests
from c2s.models.adapters import merged
from c2s.models.directory import (
    C2S_JSON,
    Model,
    library_versions,
    load_model,
)
from c2s.models.places import resolve_folder
from c2s.tasks.registry import TASKS
from c2s.training.base import base_config, base_folder, check_lora, with_adapter
from c2s.training.card import licence_of, write_card
from c2s.training.checks import check_devices, check_place
from c2s.training.folder import begun_run, finished
from c2s.training.grpo.card import alignment_card
from c2s.training.grpo.opening import answers_per_pass, asked, n_steps, open_alignment
from c2s.training.grpo.recipe import AlignmentRecipe
from c2s.training.grpo.signs import signs_of_hacking
from c2s.training.hub import push_model
from c2s.training.log import RunLog
from c2s.training.loop import complete_checkpoints
from c2s.training.processes import check_sharding, is_first, is_sharded, world_size
from c2s.training.recipe import DataRecipe, corpus_recipe
from c2s.training.rewards.shares import FEWEST_CELLS
from c2s.training.speed import device_name

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from c2s.training.grpo.trainer import GroupTrainer


@dataclass(frozen=True)
class PreparedAlignment:
    """A run before its first step: what can be refused without weights has been.

    Attributes
    ----------
    recipe, folder
        The recipe, and where its relative paths begin.
    base
        Folder of the model that is aligned.
    corpus
        Folder of the corpus whose cells are asked about.
    """

    recipe: AlignmentRecipe
    folder: Path
    base: str
    corpus: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the corpus."""
        return read_manifest(self.corpus)


def check_alignment(recipe: AlignmentRecipe) -> None:
    """Refuse what can be seen without data: what the place lacks, answers that cannot be shared out, divided weights.

    Raises
    ------
    UsageError
        The message names the field.
    """
    if find_spec("trl") is None:
        raise missing_extra("stage = grpo: trl", "grpo")
    check_place(recipe)
    if is_sharded():
        raise UsageError(
            "stage: grpo does not run on weights that FSDP divides; use DDP (--launch ddp-gpus)"
        )
    answers = recipe.optimisation.batch_size * recipe.policy.group
    if answers % world_size():
        raise UsageError(
            f"optimisation.batch_size = {recipe.optimisation.batch_size:,} prompts of {recipe.policy.group} answers "
            f"cannot be shared out evenly to {world_size():,} processes"
        )


def prepare_alignment(
    recipe: AlignmentRecipe,
    folder: Path,
    work: Path,
    on_stage: OnStage = no_progress,
    *,
    begun: bool = False,
) -> PreparedAlignment:
    """Open the data of a recipe, and check what can be checked without weights.

    Parameters are those of `prepare`.

    Raises
    ------
    InputError, UsageError
        Something is missing or does not go together; the message names the field.
    """
    try:
        base = resolve_folder(str(base_folder(recipe.base, folder)))
    except InputError as error:
        raise InputError(
            f"base.model: {error}; alignment begins with a fine-tuned model, such as c2s train cell-generation makes"
        ) from error
    config = base_config(recipe.base, folder, 1)
    if not (Path(base) / C2S_JSON).is_file():
        raise UsageError(
            f"base.model = {recipe.base.model}: is no model directory of ours; alignment begins with a fine-tuned "
            "model, which c2s train with stage: sft makes"
        )
    card = load_model(base, weights=False).card
    if not card.attention.is_causal:
        raise UsageError(
            "base.model: prompts of the model are not read causally; such models are not aligned"
        )
    if card.pathways is not None and recipe.policy.task in card.pathways.tasks:
        raise UsageError(
            f"base.model: the model names pathways before answers of {recipe.policy.task}; such models are not aligned"
        )
    if recipe.policy.task not in card.tasks:
        raise UsageError(
            f"policy.task = {recipe.policy.task}: the model was not trained on it; it knows: "
            f"{listing(card.tasks) or 'no task'}"
        )
    _check_rewards(recipe)
    check_lora(recipe.base, recipe.lora, config)
    run = PreparedAlignment(
        recipe, folder, str(base), _corpus(recipe.data, folder, work, on_stage, begun)
    )
    known, own = card.training.get("split"), split_digests(run.manifest)
    others = [study for study in own if (known or own).get(study, own[study]) != own[study]]
    if known is None:
        warn(
            "data: base.model does not say which cells it was trained on (c2s train notes it, c2s demo does not), so "
            "that cells that are held out here may have been trained on there"
        )
    elif others:
        warn(
            f"data: base.model was trained on another split of {listing(others)} (other shares or another seed), so "
            "that cells that are held out here may have been trained on there"
        )
    return run


def _check_rewards(recipe: AlignmentRecipe) -> None:
    """Refuse rewards that read what the task does not answer with.

    Raises
    ------
    UsageError
        One reads texts and the task writes cells, or the other way about.
    """
    generates = TASKS[recipe.policy.task].generates
    if not any(reward.weight for reward in recipe.rewards):
        raise UsageError("rewards: all have weight 0, so that there is nothing to learn")
    for i, reward in enumerate(recipe.rewards):
        if reward.of_groups and recipe.policy.group < FEWEST_CELLS:
            raise UsageError(
                f"policy.group = {recipe.policy.group}: rewards.{i} ({reward.name}) shares out what is measured of a "
                f"group, which needs at least {FEWEST_CELLS} answers"
            )
        if reward.reads not in ("answers", "cells" if generates else "texts"):
            raise UsageError(
                f"rewards.{i} ({reward.name}): it reads {'cells' if not generates else 'texts'}, and policy.task = "
                f"{recipe.policy.task} answers with {'a cell' if generates else 'a label'}"
            )


def _corpus(recipe: DataRecipe, folder: Path, work: Path, on_stage: OnStage, begun: bool) -> Path:
    """Return the folder of the corpus; of a recipe only the cells are made, with their split."""
    if recipe.corpus is not None:
        try:
            read_manifest(folder / recipe.corpus)
        except InputError as error:
            raise InputError(f"data.corpus: {error}") from error
        return folder / recipe.corpus
    drawn, place = corpus_recipe(recipe, folder)
    cells_only = drawn.model_copy(update={"samples_per_cell": 0, "samples_per_gene_set": 1})
    return RedrawnCorpus(cells_only, place, work, begun=begun).epoch(0, on_stage)


def plan_alignment(
    recipe: AlignmentRecipe, folder: Path, *, on_stage: OnStage = no_progress
) -> dict[str, Any]:
    """Return what a recipe would do; nothing is trained and nothing is left behind.

    Returns
    -------
    dict
        `cells` and `conditions` that are asked about, `steps`, `answers_a_step`, `answers_a_pass`, `tokens_an_answer`
        at most, `beta`, `learning_rate`, `parameters`, `trained_parameters`, `rewards`.

    Raises
    ------
    InputError, UsageError
        The recipe cannot work; the message names the field.
    """
    from c2s.training.grpo.questions import read_cells

    check_alignment(recipe)
    with tempfile.TemporaryDirectory(prefix="c2s-align-") as work:
        run = prepare_alignment(recipe, folder, Path(work), on_stage)
        model = load_model(run.base, device="cpu")
        n_parameters = model.n_parameters
        if recipe.lora is not None:
            model = with_adapter(model, recipe.lora, [], recipe.seed)
        train = read_cells(run.corpus, "train", model.vocabulary, recipe.seed)
        questions, rewards, _ = asked(recipe, model, train, folder, "cpu")
    network = model.adapted or model.network
    return {
        "stage": recipe.stage,
        "base": recipe.base.model,
        "task": recipe.policy.task,
        "cells": len(questions.real),
        "conditions": len(questions.real.conditions),
        "steps": n_steps(recipe, questions),
        "answers_a_step": recipe.optimisation.batch_size * recipe.policy.group,
        "answers_a_pass": answers_per_pass(recipe),
        "tokens_an_answer": questions.constraint.max_tokens,
        "beta": recipe.policy.beta,
        "learning_rate": recipe.optimisation.learning_rate,
        "parameters": n_parameters,
        "trained_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "rewards": {reward.name: reward.weight for reward in rewards},
    }


def run_alignment(
    recipe: AlignmentRecipe,
    folder: Path,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Run a recipe of alignment; parameters, returns and errors are those of `run_recipe`."""
    out = Path(out)
    check_alignment(recipe)
    check_devices(recipe, device)
    check_sharding(recipe.optimisation.optimizer, adapter=recipe.lora is not None)
    on_stage = on_stage if is_first() else no_progress

    def opened(begun: bool) -> PreparedAlignment:
        return prepare_alignment(recipe, folder, out / "data", on_stage, begun=begun)

    with begun_run(recipe, out, resume, device, opened) as run:
        return finished(out) if run is None else _align(run, out, resume, device, on_stage)


def _align(
    run: PreparedAlignment, out: Path, resume: bool, device: str | None, on_stage: OnStage
) -> dict[str, Any]:
    """Take the steps of a run that are left, and write what it leaves."""
    recipe = run.recipe
    checkpoints = complete_checkpoints(out / "checkpoints")
    last = checkpoints[-1] if resume and checkpoints else None
    with quiet_transformers():
        model, trainer = open_alignment(run, out, device)
        left = trainer.resume_from(last)
        trainer.remove_callback(PrinterCallback)
        if trainer.args.should_save:
            steps = trainer.args.max_steps - trainer.first_step
            log = RunLog(out / "log.jsonl", on_stage("Aligning", steps), trainer.first_step, 0.0)
            log.trainer = trainer
            trainer.add_callback(log)
        trainer.add_callback(_Measuring(trainer, recipe.evaluation.every))
        started = time.perf_counter()
        if left:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds = time.perf_counter() - started
    return _finish(run, model, trainer, out, seconds)


class _Measuring(TrainerCallback):
    """Has the trainer measure before the first step, every so many steps, and at the end.

    After a step the Trainer does so itself, behind the line of the step and before its checkpoint.
    """

    def __init__(self, trainer: GroupTrainer, every: int) -> None:
        self.trainer, self.every = trainer, every

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0:
            self.trainer.evaluate()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self.every == 0 or state.global_step == args.max_steps:
            control.should_evaluate = True


def _finish(
    run: PreparedAlignment, model: Model, trainer: GroupTrainer, out: Path, seconds: float
) -> dict[str, Any]:
    """Write the model and the facts of the run."""
    recipe, network = run.recipe, model.adapted or model.network
    n_trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if recipe.lora is not None and recipe.lora.keep == "merged":
        model = merged(model)
    history = [h for h in trainer.state.log_history if any(k.startswith("eval_") for k in h)]
    numbers = [
        {k.removeprefix("eval_"): v for k, v in h.items() if k.startswith("eval_")} for h in history
    ]
    weights = {r.name: r.weight for r in trainer.rewards}
    before, after = (numbers[0], numbers[-1]) if numbers else ({}, {})
    facts: dict[str, Any] = {
        "stage": recipe.stage,
        "base": recipe.base.model,
        "task": recipe.policy.task,
        "rewards": weights,
        "parameters": model.n_parameters,
        "trained_parameters": n_trained,
        "steps": trainer.state.global_step,
        "tokens": trainer.tokens_of_run,
        "seconds": round(trainer.before["seconds"] + seconds, 1),
        "tokens_per_second": round(trainer.tokens / seconds, 1) if trainer.tokens else None,
        "device": device_name(trainer.args.device),
        "before": before,
        "after": after,
        "signs": signs_of_hacking(before, after, trainer.state.log_history, weights),
        "corpus": run.manifest["digest"],
        "split": split_digests(run.manifest),
        "seed": recipe.seed,
        "processes": trainer.args.world_size,
        "versions": library_versions(),
    }
    if not trainer.args.should_save:
        return facts
    model.card = model.card.model_copy(
        update={"training": {**facts, "recipe": recipe.model_dump(mode="json")}}
    )
    model.network.eval()
    model.save(out / "model")
    text = alignment_card(
        facts, recipe.model_dump(mode="json"), run.manifest, genes=len(model.vocabulary), tasks=model.card.tasks,
        top_k=model.card.top_k, licence=licence_of(run.base),
    )  # fmt: skip
    write_card(out / "model", text)
    if recipe.push_to_hub is not None:
        facts["hub"] = push_model(out / "model", recipe.push_to_hub)
    with atomic_file(out / "run.json") as path:
        path.write_text(json.dumps(json_able(facts), indent=1) + "\n", "utf-8")
    return facts
