"""Training recipes: which model starts, what it reads, and how it is optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from c2s.common.config import EXPLAINED, Config, explain
from c2s.common.errors import UsageError, nearest
from c2s.corpus.recipe import CorpusRecipe
from c2s.models.attention import PromptAttention
from c2s.models.presets import PRESETS
from c2s.tasks.registry import TASKS
from c2s.training.shipped import hyperparameters, with_preset
from c2s.training.variants import AugmentRecipe

#: What is learned of a sample: its response with the end-of-text, or all tokens but the first.
Learn = Literal["response", "all"]
#: What every one of weighs the same: samples, so that a label of two tokens is not drowned by a sentence of a hundred;
#: or tokens, as in pre-training.
Weigh = Literal["sample", "token"]
#: Trackers of the Trainer that a recipe may name; each needs its own package.
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


#: At least 0 and below 1.
Share = Annotated[float, Field(ge=0, lt=1)]


#: How weights of a base are kept.
Kept = Literal["float32", "bfloat16"]


class BaseRecipe(Config):
    """The model that training starts from: a shape with random weights, or trained weights."""

    preset: str | None = Field(
        None, description=f"Shape that starts from random weights: {', '.join(PRESETS)}."
    )
    model: str | None = Field(
        None,
        description="A model directory of ours, a Hugging Face folder, or a hub id, to train further.",
    )
    context: int | None = Field(
        None,
        ge=16,
        description="Longest sample in tokens; by default the base's own. A longer one than the base knows extends "
        "its rotary positions (SPEC §5: Pythia from 2,048 to 8,192).",
    )
    extend: Literal["linear", "dynamic", "yarn"] = Field(
        "linear",
        description="How rotary positions are extended: 'linear' interpolates them (not specified by the paper).",
    )
    dtype: Kept | None = Field(
        None,
        description="What the weights of 'model' are kept in. By default float32; bfloat16 with quantize. bfloat16 "
        "takes half the memory and is meant for lora, whose adapters stay in float32; else small updates are lost.",
    )
    quantize: Literal["4bit"] | None = Field(
        None,
        description="'4bit' keeps the linear layers of 'model' in 4 bits (NF4; QLoRA, arXiv:2305.14314); needs lora "
        "and the extra quant.",
    )
    device_map: str | dict[str, int | str] | None = Field(
        None,
        description="Spreads the layers of 'model' over devices: 'auto', or a table from parts to devices, as "
        "transformers takes it; on one process.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute what the layers hold again when gradients are taken, instead of keeping it: about a "
        "third more work, and memory for the inputs of the layers only.",
    )

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        if (self.preset is None) == (self.model is None):
            raise ValueError(
                "give either 'preset', a shape with random weights, or 'model', a trained one"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset!r}; there are: {', '.join(PRESETS)}")
        for name in ("dtype", "quantize", "device_map"):
            if self.preset is not None and getattr(self, name) is not None:
                raise ValueError(f"{name!r} is for 'model', trained weights; leave it out")
        if self.quantize and self.dtype == "float32":
            raise ValueError(
                "'quantize' keeps what is not in 4 bits in bfloat16; leave out 'dtype'"
            )
        return self


class DataRecipe(Config):
    """What is trained on: a corpus that was built, or cells from which one is drawn anew for every epoch."""

    corpus: str | None = Field(None, description="Folder of a corpus that c2s corpus build made.")
    recipe: str | CorpusRecipe | None = Field(
        None,
        description="A corpus recipe, or the path of one: its ties, samples and wordings are drawn anew for every "
        "epoch.",
    )
    inverse: str | None = Field(
        None,
        description="File of cells that the line from rank to expression is fitted on (SPEC §3), so that generated "
        "cells have expression; by default the first source of 'recipe', and the base's own line with 'corpus'.",
    )
    validation: int = Field(
        256, ge=0, description="Samples of the split 'val' that the loss is measured on."
    )
    workers: int = Field(
        0,
        ge=0,
        le=1,
        description="1 reads ahead in a process of its own; 0 reads in the training process.",
    )

    @field_validator("recipe", mode="before")
    @classmethod
    def _inline(cls, recipe: Any) -> Any:
        """Read a recipe that stands here, so that what is wrong with it is said in its own words."""
        if not isinstance(recipe, dict):
            return recipe
        try:
            return CorpusRecipe.model_validate(recipe)
        except ValidationError as error:
            line = explain(error, CorpusRecipe)
            raise PydanticCustomError(EXPLAINED, "{line}", {"line": line}) from error

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.corpus is None) == (self.recipe is None):
            raise ValueError(
                "give either 'corpus', a folder that was built, or 'recipe', a corpus recipe"
            )
        return self


class LoraRecipe(Config):
    """An adapter that is trained instead of the weights (SPEC §6; rank, alpha and targets are unpublished)."""

    rank: int = Field(16, ge=1, description="Of the two matrices that change a layer.")
    alpha: float = Field(
        32.0, gt=0, description="The change is alpha / rank times the product of the matrices."
    )
    dropout: float = Field(
        0.05, ge=0, lt=1, description="Share of the input of an adapter that is left out at a time."
    )
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="The layers: all linear ones but the output head, or names such as q_proj.",
    )
    gene_tokens: Literal["train", "frozen"] = Field(
        "train",
        description="Whether the embeddings of tokens that the data add to the base's are trained; they begin as the "
        "mean of the pieces of their text, and embeddings of other tokens never change.",
    )
    keep: Literal["adapter", "merged"] = Field(
        "merged",
        description="What the model directory holds: the weights with the adapter merged in, or the adapter alone, "
        "which needs its base to be opened.",
    )

    @model_validator(mode="after")
    def _some_target(self) -> Self:
        if not self.targets:
            raise ValueError("'targets' names no layer; give some, or all-linear")
        return self


class OptimisationRecipe(Config):
    """How long and how fast (SPEC §5 and §6; the paper leaves most of it open)."""

    preset: str | None = Field(
        None,
        description="Hyperparameters that are published, by name; fields that are given besides go before them: "
        f"{', '.join(hyperparameters())}.",
    )
    steps: int | None = Field(None, ge=1, description="Optimiser steps.")
    epochs: float | None = Field(None, gt=0, description="Instead of steps.")
    batch_size: int = Field(
        32,
        ge=1,
        description="Items of a step over all processes: packed sequences of the corpus's context in pre-training, "
        "samples in fine-tuning.",
    )
    tokens_per_pass: int = Field(
        8192,
        ge=1,
        description="Tokens that go through the network at a time on a device. Fewer take less memory and give the "
        "same losses; a sample that is longer goes by itself.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="'adamw', as in the paper, or 'muon': Muon for matrices of hidden layers, AdamW for the rest.",
    )
    learning_rate: float = Field(1e-5, gt=0, description="Highest learning rate.")
    muon_learning_rate: float = Field(0.02, gt=0, description="Highest learning rate of Muon.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    final_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="What is left of the learning rate at the end, as a share; of schedule: cosine.",
    )
    warmup: float | int = Field(
        0.03,
        ge=0,
        description="Over which the learning rate rises: a share of the steps below 1, else a number of steps.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    betas: tuple[Share, Share] = Field(
        (0.9, 0.95), description="Of AdamW, each at least 0 and below 1."
    )
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What is computed in; weights and optimiser are kept in float32.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """Fill in what a preset says and the recipe does not."""
        filled = with_preset(given, hyperparameters())
        lengths = ("steps", "epochs")
        if filled is given or not any(given.get(name) is not None for name in lengths):
            return filled
        # A length of the recipe's own replaces that of the preset, in whichever of the two it is given.
        return {k: v for k, v in filled.items() if k not in lengths or given.get(k) is not None}

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either 'steps' or 'epochs'")
        if self.final_rate and self.schedule != "cosine":
            raise ValueError(
                f"final_rate = {self.final_rate:g} goes with schedule: cosine, not with {self.schedule}"
            )
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError(
                f"warmup = {self.warmup}: a share is below 1, a number of steps is whole"
            )
        return self


class EvaluationRecipe(Config):
    """What is measured during training, and what follows from it."""

    every: int = Field(200, ge=1, description="Steps between measurements.")
    best: str | None = Field(
        None,
        description="Keep the weights that are best in this: 'loss', 'loss_' with a task, such as loss_cell_type, or "
        "'accuracy_' with a task whose answer is a label, such as accuracy_cell_type: how often the most probable of "
        "the labels that are trained on is the true one. By default the last weights are kept.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="End when so many measurements in a row brought nothing better; needs 'best'.",
    )

    @field_validator("best")
    @classmethod
    def _measured(cls, best: str | None) -> str | None:
        known = ["loss", *(f"loss_{t}" for t in TASKS)]
        known += [f"accuracy_{name}" for name, task in TASKS.items() if task.answer == "label"]
        if best is not None and best not in known:
            close = nearest(best, known)
            raise ValueError(
                "it is 'loss', or 'loss_' or 'accuracy_' with a task"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        return best

    @property
    def best_task(self) -> str | None:
        """The task that the best weights are chosen by; None for all."""
        return self.best.partition("_")[2] or None if self.best else None

    @model_validator(mode="after")
    def _patience_for_something(self) -> Self:
        if self.patience is not None and self.best is None:
            raise ValueError("'patience' needs 'best': what is waited for")
        return self


class TrainingRecipe(Config):
    """A training run: pre-training, or supervised fine-tuning."""

    stage: Literal["pretrain", "sft"] = Field(
        description="'pretrain' learns all tokens, each weighing the same; 'sft' learns responses, each sample "
        "weighing the same (`learn` and `weigh` change that)."
    )
    base: BaseRecipe = Field(description="What training starts from.")
    data: DataRecipe = Field(description="What is trained on.")
    optimisation: OptimisationRecipe = Field(description="How long and how fast.")
    lora: LoraRecipe | None = Field(
        None,
        description="Train an adapter and leave the base's weights as they are (extra lora); `lora: {}` takes the "
        "defaults. By default all weights are trained.",
    )
    learn: Learn | None = Field(
        None, description="'response' or 'all' tokens; by default what belongs to the stage."
    )
    weigh: Weigh | None = Field(
        None, description="Whether every 'sample' weighs the same or every 'token'."
    )
    attention: PromptAttention | None = Field(
        None,
        description="What tokens of a prompt see (SPEC §17); by default what they saw when the base was trained.",
    )
    augment: AugmentRecipe | None = Field(
        None, description="Genes of prompts in other orders (SPEC §17)."
    )
    evaluation: EvaluationRecipe = Field(
        default_factory=EvaluationRecipe, description="What is measured meanwhile."
    )
    save_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints that are kept.")
    trackers: list[Tracker] = Field(
        default_factory=list, description="Where losses are sent to beside log.jsonl."
    )
    push_to_hub: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Where the model directory is uploaded to at the end, as owner/name on the Hugging Face hub; the "
        "repository is private where it is new. By default nothing leaves this machine.",
    )
    seed: int = Field(0, ge=0, description="Draws weights, order and dropout.")

    @model_validator(mode="after")
    def _adapter_possible(self) -> Self:
        if self.base.quantize is not None and self.lora is None:
            raise ValueError("base.quantize needs lora: weights in 4 bits cannot be trained")
        if self.lora is not None and self.lora.keep == "adapter" and self.base.model is None:
            raise ValueError("lora.keep: adapter needs base.model; random weights are kept nowhere")
        if self.lora is not None and self.lora.keep == "merged" and self.base.quantize is not None:
            raise ValueError(
                "lora.keep: merged cannot be had in 4 bits; give keep: adapter, and merge it into the whole base with "
                "c2s model merge"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.evaluation.best is not None:
            if self.save_every != self.evaluation.every:
                raise ValueError(
                    f"save_every = {self.save_every} must be evaluation.every = {self.evaluation.every} where "
                    "evaluation.best is given, so that the best weights are there to be kept"
                )
            if not self.data.validation:
                raise ValueError("evaluation.best needs validation samples; data.validation is 0")
        if self.attention is not None and not self.attention.is_causal and self.learned == "all":
            raise ValueError(
                f"attention.kind = {self.attention.kind!r} needs learn: response; a token of the prompt that sees "
                "its successor cannot learn to predict it"
            )
        return self

    @property
    def learned(self) -> Learn:
        """What is learned of a sample."""
        return self.learn or ("all" if self.stage == "pretrain" else "response")

    @property
    def weighed(self) -> Weigh:
        """What every one of weighs the same."""
        return self.weigh or ("token" if self.stage == "pretrain" else "sample")


def is_training_recipe(content: Any) -> bool:
    """Return whether a YAML document is a recipe of this kind, which names its stage."""
    return isinstance(content, dict) and "stage" in content


def corpus_recipe(recipe: DataRecipe, folder: Path) -> tuple[CorpusRecipe, Path]:
    """Return the corpus recipe that is drawn from, and the folder where its relative paths begin.

    Raises
    ------
    UsageError
        The recipe names a corpus that was built.
    """
    from c2s.corpus.recipe import read_recipe

    if isinstance(recipe.recipe, CorpusRecipe):
        return recipe.recipe, folder
    if recipe.recipe is None:
        raise UsageError(
            "data.corpus names a corpus that was built; there is no recipe to draw from"
        )
    path = folder / recipe.recipe
    return read_recipe(path), path.resolve().parent
