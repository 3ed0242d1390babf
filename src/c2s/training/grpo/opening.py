"""What a run of alignment is made of: questions, rewards, their space, and the trainer."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import InputError, UsageError, counted, listing, warn
from c2s.models.directory import Model, load_model, resolve_device
from c2s.training.base import with_adapter
from c2s.training.grpo.recipe import AlignmentRecipe, PolicyRecipe
from c2s.training.processes import world_size
from c2s.training.rewards.recipes import GroupRecipe
from c2s.training.run import optimiser_arguments, optimizer_of

if TYPE_CHECKING:
    from c2s.cells.inverse import RankExpressionModel
    from c2s.training.grpo.questions import CorpusCells, Questions
    from c2s.training.grpo.run import PreparedAlignment
    from c2s.training.grpo.trainer import GroupTrainer
    from c2s.training.rewards.base import OpenedReward, RealCells
    from c2s.training.rewards.space import CellSpace


def answers_per_pass(recipe: AlignmentRecipe) -> int:
    """Return how many answers a process learns from at a time: the most that divide its share of a step."""
    share = recipe.optimisation.batch_size * recipe.policy.group // world_size()
    most = min(share, recipe.policy.answers_per_pass)
    return next(n for n in range(most, 0, -1) if share % n == 0)


def open_alignment(
    run: PreparedAlignment, out: Path, device: str | None
) -> tuple[Model, GroupTrainer]:
    """Return the model that a run trains, and its trainer with questions, rewards and measures.

    Parameters
    ----------
    run
        What was checked.
    out
        Gets `checkpoints/`.
    device
        "cpu" keeps off a GPU; by default the best there is.

    Raises
    ------
    UsageError
        The task, a reward or the space of the metrics cannot be had with this model and these cells.
    """
    from c2s.training.grpo.questions import read_cells

    recipe = run.recipe
    model = load_model(run.base, device="cpu", dtype=recipe.base.dtype or "float32")
    model.card = model.card.model_copy(
        update={"generation": {"temperature": recipe.policy.temperature, "top_p": 1.0}}
    )
    if recipe.lora is not None:
        model = with_adapter(model, recipe.lora, [], recipe.seed)
    train, held_out = (
        read_cells(run.corpus, split, model.vocabulary, recipe.seed) for split in ("train", "val")
    )
    checkpoints = out / "checkpoints"
    trainer = open_trainer(
        recipe, model, train, held_out, checkpoints, folder=run.folder, device=device
    )
    return model, trainer


def open_trainer(
    recipe: AlignmentRecipe,
    model: Model,
    train: CorpusCells,
    held_out: CorpusCells,
    out: Path,
    *,
    folder: Path = Path(),
    device: str | None = None,
) -> GroupTrainer:
    """Return the trainer of a recipe on given cells, with its questions, rewards and measures.

    Parameters
    ----------
    recipe
        What is asked, rewarded and learned; `base` and `data` are not looked at.
    model
        What is trained.
    train, held_out
        Cells that are asked about and compared with, and cells that measures are taken on meanwhile.
    out
        Gets the checkpoints.
    folder
        Where relative paths of rewards begin.
    device
        "cpu" keeps off a GPU.

    Raises
    ------
    UsageError
        The task, a reward or the space of the metrics cannot be had with this model and these cells.
    """
    from c2s.training.grpo.held_out import HeldOut
    from c2s.training.grpo.trainer import GroupTrainer
    from c2s.training.rewards.watch import watch

    policy = recipe.policy
    questions, rewards, space = asked(recipe, model, train, folder, _own_device(device))
    steps = n_steps(recipe, questions)
    n_questions = -(-steps // policy.iterations) * recipe.optimisation.batch_size
    return GroupTrainer(
        model,
        _arguments(recipe, steps, out, device, questions),
        questions,
        rewards,
        n_questions,
        watch=partial(watch, real=questions.real, space=space),
        measure=HeldOut(
            model, policy, recipe.evaluation, held_out, questions.real, space, recipe.seed
        ),
        beta_allowed=policy.beta_allowed,
        keep_checkpoints=recipe.keep_checkpoints,
        optimizer=optimizer_of(model.network, recipe.optimisation),
    )


def asked(
    recipe: AlignmentRecipe, model: Model, cells: CorpusCells, folder: Path, device: str
) -> tuple[Questions, list[OpenedReward], CellSpace | None]:
    """Return the questions of a run, its rewards, and the space that they and other measures share."""
    from c2s.training.grpo.questions import Questions
    from c2s.training.rewards.opening import open_rewards

    questions = Questions(model, recipe.policy, cells, recipe.seed)
    _check_real(recipe, questions.real)
    inverse = model.inverse if model.card.inverse else None
    space = None
    if inverse is not None and questions.task.generates:
        space = _space(recipe, questions.real, inverse, device)
    rewards = open_rewards(
        recipe.rewards, questions.real, inverse, model.vocabulary, space, recipe.seed, device=device, folder=folder
    )  # fmt: skip
    return questions, rewards, space


def _space(
    recipe: AlignmentRecipe, real: RealCells, inverse: RankExpressionModel, device: str
) -> CellSpace | None:
    """Return the space of rewards that name none and of what is watched; None where no reward needs it and none can be.

    Raises
    ------
    InputError, UsageError
        It cannot be fitted on these cells, and a reward needs it.
    """
    from c2s.training.rewards.opening import open_space

    try:
        return open_space(None, real, inverse, seed=recipe.seed, device=device)
    except (InputError, UsageError) as error:
        if any(reward.in_space for reward in recipe.rewards):
            raise
        warn(f"{error}; generated cells are not compared with real ones")
        return None


def _check_real(recipe: AlignmentRecipe, real: RealCells) -> None:
    """Warn of conditions that rewards of groups cannot judge, for they have too few real cells.

    Raises
    ------
    UsageError
        These are all.
    """
    named = [r.name for r in recipe.rewards if isinstance(r, GroupRecipe)]
    few = [name for code, name in enumerate(real.conditions) if len(real.rows(code)) < 2]
    if not named or not few:
        return
    if len(few) == len(real.conditions):
        raise UsageError(
            f"rewards ({named[0]}): no condition of {recipe.policy.task} has two training cells to compare a group with"
        )
    warn(
        f"{counted(len(few), 'condition')} with fewer than two training cells, to which {named[0]} gives nothing to "
        f"learn from: {listing(few)}"
    )


def _own_device(device: str | None) -> str:
    """Return the device of this process, where rewards run too."""
    where = resolve_device(device)
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if where == "cuda" else where


def n_steps(recipe: AlignmentRecipe, questions: Questions) -> int:
    """Return the number of steps of a run: whole multiples of the iterations of a step's answers."""
    settings, every = recipe.optimisation, recipe.policy.iterations
    steps = settings.steps or math.ceil(
        (settings.epochs or 0) * questions.n_of_epoch / settings.batch_size * every
    )
    return -(-steps // every) * every


def _arguments(
    recipe: AlignmentRecipe, steps: int, out: Path, device: str | None, questions: Questions
) -> Any:
    """Return what TRL is told of a recipe."""
    from trl import GRPOConfig

    policy, at_a_time = recipe.policy, answers_per_pass(recipe)
    passes = recipe.optimisation.batch_size * policy.group // world_size() // at_a_time
    return GRPOConfig(
        **optimiser_arguments(recipe.optimisation, steps, device),
        output_dir=str(out),
        seed=recipe.seed,
        save_steps=recipe.save_every,
        logging_steps=1,
        ignore_data_skip=False,  # which questions are asked depends on the step
        report_to=list(recipe.trackers),
        per_device_train_batch_size=at_a_time,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes,
        num_generations=policy.group,
        num_iterations=policy.iterations,
        max_completion_length=questions.constraint.max_tokens,
        temperature=policy.temperature,
        beta=policy.beta,
        use_bias_correction_kl=policy.divergence == "weighted",
        epsilon=policy.epsilon,
        epsilon_high=_highest(policy),
        loss_type=policy.loss,
        scale_rewards=policy.scale,
        importance_sampling_level=policy.ratio,
        entropy_coef=policy.entropy,
        reward_weights=[r.weight for r in recipe.rewards],
        shuffle_dataset=False,  # the questions are in an order of their own
        disable_dropout=True,
        activation_checkpointing=recipe.base.gradient_checkpointing,
    )


def _highest(policy: PolicyRecipe) -> float | None:
    """Return how far the ratio may go above 1, as TRL takes it; for CISPO, how far above 0."""
    if policy.loss != "cispo":
        return policy.epsilon_high
    return 1 + (policy.epsilon if policy.epsilon_high is None else policy.epsilon_high)
