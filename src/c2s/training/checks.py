"""What a recipe asks of the place where it runs, looked at before anything else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from c2s.common.errors import InputError, UsageError, listing
from c2s.training.processes import world_size

if TYPE_CHECKING:
    from pathlib import Path

    from c2s.models.attention import PromptAttention
    from c2s.training.data import TrainingData
    from c2s.training.grpo.recipe import AlignmentRecipe
    from c2s.training.recipe import TrainingRecipe

#: Packages of the trackers, one of which must be there.
_PACKAGES: dict[str, Sequence[str]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


def check_place(recipe: TrainingRecipe | AlignmentRecipe) -> None:
    """Refuse a recipe that wants what is not here: a tracker's package, or a token.

    Raises
    ------
    UsageError
        One of these; the message names the field.
    """
    for tracker in recipe.trackers:
        if not any(find_spec(package) for package in _PACKAGES[tracker]):
            package = _PACKAGES[tracker][0]
            raise UsageError(
                f"trackers: {package} is not installed; install it with: pip install {package}"
            )
    if recipe.push_to_hub is not None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UsageError(
                f"push_to_hub = {recipe.push_to_hub}: there is no token for the hub; log in with hf auth login, or set "
                "HF_TOKEN"
            )


def check_batch(recipe: TrainingRecipe) -> None:
    """Refuse a batch that cannot be shared out to the processes, or layers that are spread while there are several.

    Raises
    ------
    UsageError
        The message names the field.
    """
    processes = world_size()
    if recipe.base.device_map is not None and processes > 1:
        raise UsageError(
            "base.device_map spreads one process over devices; with several processes leave it out"
        )
    batch_size = recipe.optimisation.batch_size
    if batch_size % processes:
        raise UsageError(
            f"optimisation.batch_size = {batch_size:,} cannot be shared out evenly to {processes:,} processes; give a "
            "multiple of it"
        )


def check_pathways(recipe: TrainingRecipe, folder: Path, attention: PromptAttention) -> None:
    """Refuse pathways before answers where prompts are not read causally, before a corpus is drawn.

    In training the pathways are part of the response, and when the model is asked they stand behind the prompt as the
    answer's beginning: tokens of the prompt would see them there.

    Raises
    ------
    UsageError
        The data name pathways, and the attention is another one.
    """
    from c2s.corpus.show import read_manifest
    from c2s.training.recipe import corpus_recipe

    if attention.is_causal:
        return
    if recipe.data.corpus is not None:
        named = read_manifest(folder / recipe.data.corpus).get("pathways")
        field = "data.corpus"
    else:
        named, field = corpus_recipe(recipe.data, folder)[0].pathways, "data.recipe.pathways"
    if named is not None:
        raise UsageError(
            f"attention.kind = {attention.kind!r} does not go together with {field}, which names pathways before "
            "answers; give attention.kind: causal"
        )


def check_inverse(recipe: TrainingRecipe, folder: Path) -> None:
    """Refuse a file for the line from rank to expression that is not there, before anything is trained.

    Raises
    ------
    UsageError
        There is none.
    """
    from c2s.corpus.sources import expand

    if recipe.data.inverse is not None:
        try:
            expand([recipe.data.inverse], folder)
        except InputError as error:
            raise UsageError(f"data.inverse: {error}") from error


def check_devices(recipe: TrainingRecipe | AlignmentRecipe, device: str | None) -> None:
    """Refuse devices that one process cannot train on.

    Raises
    ------
    UsageError
        There are several GPUs and one process, or another GPU than the first is named.
    """
    import torch

    number = (device or "").removeprefix("cuda:")
    if number.isdecimal() and int(number):
        raise UsageError(
            f"device={device!r}: training takes the first GPU that it sees; give device='cuda' and set "
            f"CUDA_VISIBLE_DEVICES={number}"
        )
    alone = world_size() == 1 and recipe.base.device_map is None
    if alone and device in (None, "cuda", "cuda:0") and torch.cuda.device_count() > 1:
        raise UsageError(
            f"there are {torch.cuda.device_count()} GPUs, and each needs a process; start with --launch ddp-gpus, or "
            "set CUDA_VISIBLE_DEVICES=0"
        )


def check_best(recipe: TrainingRecipe, data: TrainingData) -> None:
    """Refuse a measure of the best weights that the data do not allow.

    Raises
    ------
    UsageError
        The message names the field.
    """
    best, task = recipe.evaluation.best, recipe.evaluation.best_task
    if best is None:
        return
    if not data.manifest["samples"].get("val"):
        raise UsageError(
            f"evaluation.best = {best}: the corpus has no samples in the split 'val'; give the split more cells"
        )
    if task is not None and task not in data.manifest["samples"]["val"]:
        there = listing(sorted(data.manifest["samples"]["val"]))
        raise UsageError(
            f"evaluation.best = {best}: the data have no validation samples of the task {task!r}; there are: {there}"
        )
    drawn = {s.task for s in data.validation(recipe.data.validation)}
    if task is not None and task not in drawn:
        raise UsageError(
            f"evaluation.best = {best}: none of the {recipe.data.validation:,} validation samples is of the task "
            f"{task!r}; give more with data.validation"
        )
