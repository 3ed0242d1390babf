"""A training run: from a recipe to a model directory, resumable at every checkpoint."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from c2s.common.errors import UsageError
from c2s.common.files import atomic_file, json_able
from c2s.common.progress import OnStage, no_progress
from c2s.common.transformers_log import quiet_transformers
from c2s.corpus.show import split_digests
from c2s.models.adapters import check_tokens, merged
from c2s.models.attention import PromptAttention, PromptReach
from c2s.models.directory import C2S_JSON, Model, library_versions, resolve_device
from c2s.models.places import resolve_folder
from c2s.models.weights import n_weights
from c2s.tasks.pathways import PathwayLine
from c2s.training.base import base_config, base_folder, check_lora, open_base, pathways_named
from c2s.training.card import licence_of, model_card, write_card
from c2s.training.checks import (
    check_batch,
    check_best,
    check_devices,
    check_inverse,
    check_pathways,
    check_place,
)
from c2s.training.data import TrainingData, fitted_line, open_data
from c2s.training.folder import begun_run, finished
from c2s.training.hub import push_model
from c2s.training.log import RunLog
from c2s.training.loop import PackedTrainer, complete_checkpoints, load_weights, read_weights
from c2s.training.measure import LabelAccuracy, best_measure, intervals, sample_losses
from c2s.training.optimizers import MuonWithAdamW
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.processes import check_sharding, is_first
from c2s.training.recipe import OptimisationRecipe, TrainingRecipe
from c2s.training.samples import TokenSample
from c2s.training.speed import device_name, matrix_rate
from c2s.training.variants import PermutedStream

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Prepared:
    """A run before its first step: everything that can be refused has been."""

    recipe: TrainingRecipe
    folder: Path
    data: TrainingData
    config: Any
    n_steps: int
    attention: PromptAttention

    @property
    def corpus(self) -> Path:
        """Folder of the corpus, or of the first that is drawn."""
        return self.data.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest."""
        return self.data.manifest

    @cached_property
    def validation(self) -> list[TokenSample]:
        """The samples that losses are measured on."""
        return self.data.validation(self.recipe.data.validation)


def prepare(
    recipe: TrainingRecipe,
    folder: Path,
    work: Path,
    on_stage: OnStage = no_progress,
    *,
    begun: bool = False,
) -> Prepared:
    """Open data and shape of a recipe, and check what can be checked without weights.

    Parameters
    ----------
    recipe
        The recipe.
    folder
        Where its relative paths begin.
    work
        Where corpora are drawn.
    on_stage
        Told of progress.
    begun
        There was trained on what is in `work`: other data are refused.

    Raises
    ------
    InputError, UsageError
        Something is missing or does not go together; the message names the field.
    """
    check_place(recipe)
    check_inverse(recipe, folder)
    source = base_folder(recipe.base, folder)
    shape = base_config(recipe.base, folder, 1)
    check_lora(recipe.base, recipe.lora, shape)
    context = recipe.base.context or shape.max_position_embeddings
    mode, attention = None, recipe.attention or PromptAttention()
    card = {} if source is None else _card_of(resolve_folder(source))
    if card:
        mode = card["mode"]
        if recipe.attention is None:
            attention = PromptAttention.parse(card.get("attention", {}), f"{source}: attention")
    _check_attention(recipe, attention, shape)
    check_pathways(recipe, folder, attention)
    data = open_data(
        recipe.data, folder, work, packed=recipe.stage == "pretrain", seed=recipe.seed, context=context,
        tokenizer=None if source is None else str(Path(source).resolve()) if Path(source).is_dir() else source,
        mode=mode, begun=begun, on_stage=on_stage,
    )  # fmt: skip
    if not data.manifest["samples"].get("train"):
        raise UsageError("data: there is no sample to train on")
    if source is not None:
        check_tokens(Path(resolve_folder(source)), data.tokenizer, source)
    check_best(recipe, data)
    _check_named(data, card, attention)
    config = base_config(recipe.base, folder, len(data.tokenizer.backend))
    steps = recipe.optimisation.steps or max(
        1,
        round(
            (recipe.optimisation.epochs or 0) * data.stream.n_items / recipe.optimisation.batch_size
        ),
    )
    return Prepared(recipe, folder, data, config, steps, attention)


def _card_of(place: Path) -> dict[str, Any]:
    """Return what c2s.json of a folder says; nothing where it has none."""
    path = place / C2S_JSON
    card: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return card


def _check_named(data: TrainingData, card: dict[str, Any], attention: PromptAttention) -> None:
    """Refuse pathways of the base that do not go with the data's, or with the attention.

    Raises
    ------
    UsageError
        They do not.
    """
    known = card.get("pathways")
    before = None if known is None else PathwayLine.parse(known, "base.model: pathways")
    if pathways_named(data, before) is not None and not attention.is_causal:
        raise UsageError(
            f"attention.kind = {attention.kind!r}: the base names pathways before answers (pathways in its "
            "c2s.json), which goes with causal attention only"
        )


def _check_attention(recipe: TrainingRecipe, attention: PromptAttention, shape: Any) -> None:
    """Refuse attention that cannot be trained.

    Raises
    ------
    UsageError
        Prompts of the base are not read causally and are to be learned, or there is no such layer.
    """
    attention.open_layers(shape.get_text_config().num_hidden_layers)
    if not attention.is_causal and recipe.learned == "all":
        raise UsageError(
            f"learn: the base reads prompts with attention.kind = {attention.kind!r}, whose tokens see their "
            "successors; set learn: response, or attention.kind: causal"
        )


def run_recipe(
    recipe: TrainingRecipe,
    folder: Path,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str | None = None,
    on_stage: OnStage = no_progress,
) -> dict[str, Any]:
    """Run a recipe.

    Parameters
    ----------
    recipe
        What to do.
    folder
        Where its relative paths begin.
    out
        Gets `model/`, `log.jsonl`, `run.json`, `recipe.yaml`, `checkpoints/`, and `data/` where a corpus is drawn.
    resume
        Go on from the last checkpoint in `out`; the losses are those of a run that was never stopped.
    device
        "cpu" keeps off a GPU; by default the best there is.
    on_stage
        Told of progress.

    Returns
    -------
    dict
        Facts of the run, as in `run.json`.

    Raises
    ------
    UsageError
        The recipe cannot work, `out` holds another run, or there is nothing to resume.
    C2SError
        A loss is no longer a number; checkpoints stay.
    """
    out = Path(out)
    # Before processes wait for each other.
    check_place(recipe)
    check_batch(recipe)
    check_devices(recipe, device)
    check_sharding(recipe.optimisation.optimizer, adapter=recipe.lora is not None)
    on_stage = on_stage if is_first() else no_progress

    def opened(begun: bool) -> Prepared:
        return prepare(recipe, folder, out / "data", on_stage, begun=begun)

    with begun_run(recipe, out, resume, device, opened) as run:
        return finished(out) if run is None else _train(run, out, resume, device, on_stage)


def _train(
    run: Prepared, out: Path, resume: bool, device: str | None, on_stage: OnStage
) -> dict[str, Any]:
    """Take the steps of a run that are left, and write what it leaves."""
    recipe = run.recipe
    model = open_base(recipe.base, run.folder, run.data, recipe.seed, recipe.lora, device)
    model.card = model.card.model_copy(update={"attention": run.attention})
    checkpoints = complete_checkpoints(out / "checkpoints")
    last = checkpoints[-1] if resume and checkpoints else None
    measure = best_measure(model, recipe.evaluation.best, run.validation, run.data.conditions)
    with attending_packed(model.network), quiet_transformers():
        trainer = _trainer(run, model, out, device, measure)
        left = trainer.resume_from(last)
        trainer.remove_callback(PrinterCallback)
        speed: dict[str, Any] = {"device": device_name(trainer.args.device)}
        log = None
        if trainer.args.should_save:
            rate = matrix_rate(trainer.args.device, getattr(torch, recipe.optimisation.precision))
            steps = run.n_steps - trainer.first_step
            log = RunLog(out / "log.jsonl", on_stage("Training", steps), trainer.first_step, rate)
            log.trainer = trainer
            trainer.add_callback(log)
        started = time.perf_counter()
        if left:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds = time.perf_counter() - started
    if log is not None:
        used = log.utilisation(trainer.state, seconds) if left else None
        speed |= {"matrix_rate": log.rate, "flop_utilisation": used}
    return _finish(run, model, trainer, out, seconds, speed)


def _trainer(
    run: Prepared, model: Model, out: Path, device: str | None, measure: LabelAccuracy | None
) -> PackedTrainer:
    """Return the Trainer of a run.

    Raises
    ------
    UsageError
        The weights are divided among processes, and what they are measured by needs them whole.
    """
    recipe, settings = run.recipe, run.recipe.optimisation
    if recipe.base.gradient_checkpointing:
        model.network.activation_checkpointing_enable({"use_reentrant": False})
    callbacks: list[TrainerCallback] = []
    if recipe.evaluation.patience is not None:
        callbacks.append(EarlyStoppingCallback(recipe.evaluation.patience))
    validation = run.validation
    stream = run.data.stream
    if recipe.augment is not None:
        stream = PermutedStream(stream, recipe.augment, run.data.tokenizer, recipe.seed)
    trainer = PackedTrainer(
        PackedNetwork(model.adapted or model.network, recipe.weighed, run.attention),
        arguments(recipe, run.n_steps, out / "checkpoints", device, bool(validation)),
        stream,
        batch_size=settings.batch_size,
        learn=recipe.learned,
        tokens_per_pass=settings.tokens_per_pass,
        validation=validation,
        measure=measure,
        workers=recipe.data.workers,
        keep_checkpoints=recipe.keep_checkpoints,
        reach=None if run.attention.is_causal else PromptReach(run.attention, run.data.tokenizer),
        callbacks=callbacks,
        optimizers=(optimizer_of(model.network, settings), None),
    )
    if measure is not None and trainer.is_fsdp_enabled:
        raise UsageError(
            f"evaluation.best = {recipe.evaluation.best}: labels cannot be scored while FSDP divides the weights; give "
            "a loss"
        )
    return trainer


def optimizer_of(network: Any, settings: OptimisationRecipe) -> torch.optim.Optimizer | None:
    """Return the optimiser, or None for the Trainer's own AdamW."""
    if settings.optimizer == "adamw":
        return None
    return MuonWithAdamW(
        network,
        muon_lr=settings.muon_learning_rate,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def arguments(
    recipe: TrainingRecipe, n_steps: int, out: Path, device: str | None, validated: bool
) -> TrainingArguments:
    """Return what the Trainer is told of a recipe."""
    evaluation = recipe.evaluation
    best: dict[str, Any] = {}
    if evaluation.best is not None:
        best = {
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{evaluation.best}",
            "greater_is_better": not evaluation.best.startswith("loss"),
        }
    return TrainingArguments(
        **optimiser_arguments(recipe.optimisation, n_steps, device),
        output_dir=str(out),
        seed=recipe.seed,
        eval_strategy="steps" if validated else "no",
        eval_steps=evaluation.every,
        save_steps=recipe.save_every,
        logging_steps=max(1, min(10, n_steps // 20 or 1)),
        ignore_data_skip=True,
        report_to=list(recipe.trackers),
        **best,
    )


def optimiser_arguments(
    settings: OptimisationRecipe, n_steps: int, device: str | None
) -> dict[str, Any]:
    """Return what any Trainer of ours is told: steps and rates, and what it shall leave to us."""
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * n_steps
    floor = settings.final_rate > 0 and settings.schedule == "cosine"
    schedule = {
        "cosine": "cosine_with_min_lr" if floor else "cosine",
        "constant": "constant_with_warmup",
    }
    return {
        "max_steps": n_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": schedule.get(settings.schedule, settings.schedule),
        "lr_scheduler_kwargs": {"min_lr_rate": settings.final_rate} if floor else {},
        "warmup_steps": round(warmup),
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "max_grad_norm": settings.clip,
        "bf16": settings.precision == "bfloat16",
        "use_cpu": resolve_device(device) == "cpu",
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "restore_callback_states_from_checkpoint": True,
    }


def _finish(
    run: Prepared, model: Model, trainer: PackedTrainer, out: Path, seconds: float, speed: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Write the model and the facts of the run."""
    network = trainer.packed.network.eval()
    best = trainer.state.best_model_checkpoint if run.recipe.evaluation.best else None
    weights = None
    if best is None:
        weights = trainer.whole_weights()
    else:
        # By its number: the folder may have been moved since the path was written.
        folder = out / "checkpoints" / f"checkpoint-{trainer.state.best_global_step}"
        if not trainer.is_fsdp_enabled:
            load_weights(network, folder)
        else:
            weights = dict(read_weights(folder)) if trainer.args.should_save else {}
    # Of the weights that are kept.
    kept = None if best is None else trainer.state.best_global_step
    history = [
        h for h in trainer.state.log_history
        if any(k.startswith("eval_") for k in h) and kept in (None, h["step"])
    ]  # fmt: skip
    facts: dict[str, Any] = {
        "stage": run.recipe.stage,
        "base": run.recipe.base.preset or run.recipe.base.model,
        "parameters": n_weights(network.parameters()),
        "trained_parameters": n_weights(p for p in network.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        **trainer.done,
        "seconds": round(trainer.before["seconds"] + seconds, 1),
        "tokens_per_second": round(trainer.tokens / seconds, 1) if trainer.tokens else None,
        **speed,
        "best_step": kept,
        "validation": {
            k.removeprefix("eval_"): v for k, v in (history[-1] if history else {}).items()
            if k.startswith("eval_")
        },
        "metrics": {},
        "corpus": run.data.manifest["digest"],
        "split": split_digests(run.data.manifest),
        "seed": run.recipe.seed,
        "processes": trainer.args.world_size,
        "divided": trainer.is_fsdp_enabled,
        "versions": library_versions(),
    }  # fmt: skip
    if not trainer.args.should_save:
        return facts
    if run.recipe.lora is not None and run.recipe.lora.keep == "merged":
        model, weights = merged(model), None
        facts["parameters"] = model.n_parameters
    # Before anything else that can fail, so that hours of training are not lost.
    model.save(out / "model", weights)
    if not trainer.is_fsdp_enabled:
        facts["metrics"] = _measured(run, model)
    line = fitted_line(run.recipe.data, run.folder, run.data) or {}
    # The first is the one that is taken where none is named.
    others = {name: old for name, old in model.card.inverse.items() if name not in line}
    training = json_able({**facts, "recipe": run.recipe.model_dump(mode="json")})
    _note(out / "model", inverse={**line, **others}, training=training)
    _describe(run, model, facts, out / "model")
    if run.recipe.push_to_hub is not None:
        # Before the run counts as finished, so that --resume tries again.
        facts["hub"] = push_model(out / "model", run.recipe.push_to_hub)
    with atomic_file(out / "run.json") as path:
        path.write_text(json.dumps(json_able(facts), indent=1) + "\n", "utf-8")
    return facts


def _note(folder: Path, **fields: Any) -> None:
    """Write some fields of the card of a model directory anew."""
    card = json.loads((folder / C2S_JSON).read_text("utf-8"))
    with atomic_file(folder / C2S_JSON) as path:
        path.write_text(json.dumps({**card, **fields}, indent=1) + "\n", "utf-8")


def _measured(run: Prepared, model: Model) -> dict[str, dict[str, float]]:
    """Return the losses and accuracies of the weights that are kept, with intervals over validation samples."""
    if not run.validation:
        return {}
    recipe, seed = run.recipe, run.recipe.seed
    losses = sample_losses(
        model, run.validation, recipe.learned, recipe.optimisation.tokens_per_pass
    )
    right = LabelAccuracy(model, run.validation, run.data.conditions).right()
    return intervals(losses, "loss", seed) | intervals(right, "accuracy", seed)


def _describe(run: Prepared, model: Model, facts: dict[str, Any], folder: Path) -> None:
    """Write the model card."""
    source = base_folder(run.recipe.base, run.folder)
    text = model_card(
        facts, run.recipe.model_dump(mode="json"), run.data.manifest, genes=len(model.vocabulary),
        top_k=model.card.top_k, tasks=model.card.tasks, pathways=model.card.pathways,
        attention=model.card.attention,
        licence=None if source is None else licence_of(resolve_folder(source)),
        on_hub=source is not None and not Path(source).is_dir(),
    )  # fmt: skip
    write_card(folder, text)
