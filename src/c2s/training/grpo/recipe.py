"""Recipes of alignment: which task, how groups are drawn and learned from, and what is rewarded (SPEC §7)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from c2s.common.config import Config
from c2s.common.errors import listing
from c2s.tasks.registry import TASKS
from c2s.training.recipe import BaseRecipe, DataRecipe, LoraRecipe, OptimisationRecipe, Tracker
from c2s.training.rewards.registry import AnyReward
from c2s.training.shipped import grpo_settings, with_preset

#: Losses of TRL by the names of their publications.
Loss = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]

#: Answers that rewards can read.
_ANSWERS = ("cell", "label")


class PolicyRecipe(Config):
    """How groups of answers are drawn, and what is learned from them (SPEC §7.1)."""

    preset: str | None = Field(
        None,
        description="Settings that are published, by name (SPEC §7.2); fields that are given besides go before them: "
        f"{', '.join(grpo_settings())}.",
    )
    task: str = Field("cond_cell", description="The task that is asked.")
    prompts: Literal["conditions", "cells"] = Field(
        "conditions",
        description="'conditions' asks for each condition of the training cells equally often; 'cells' as often as "
        "there are cells of it.",
    )
    genes: int | None = Field(
        None,
        ge=1,
        description="Genes of a generated cell; by default as many as the model was trained on.",
    )
    group: int = Field(
        8, ge=2, description="Answers to a prompt, which are compared with each other."
    )
    beta: float = Field(
        0.005,
        ge=0,
        description="What the divergence from the model that training starts from weighs (k3).",
    )
    divergence: Literal["k3", "weighted"] = Field(
        "k3",
        description="'k3' is that of SPEC §7.1; 'weighted' multiplies it by the importance ratio, whose gradient is "
        "that of the reverse KL divergence (DeepSeek-V3.2, arXiv:2512.02556; TRL's default).",
    )
    epsilon: float = Field(
        0.2, gt=0, description="How far the importance ratio may go below 1 (clip)."
    )
    epsilon_high: float | None = Field(
        None, gt=0, description="How far it may go above 1; by default as far as below."
    )
    iterations: int = Field(
        1, ge=1, description="Steps that learn from the same answers (µ of the publication)."
    )
    temperature: float = Field(1.0, gt=0, description="Of the rollouts.")
    loss: Loss = Field(
        "grpo",
        description="'grpo' means over the tokens of an answer and then over answers, as published first; others are "
        "those of TRL by their names. 'bnpo' means over the tokens of a pass, so that answers_per_pass matters to it.",
    )
    scale: Literal["group", "batch", "none"] = Field(
        "group", description="Whose standard deviation the advantages are divided by."
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="What the importance ratio is of; 'sequence' is GSPO."
    )
    entropy: float = Field(
        0.0,
        ge=0,
        description="What the entropy of the choices weighs, as a bonus: a mean over the tokens of each pass.",
    )
    beta_allowed: float = Field(
        0.0,
        ge=0,
        description="What the divergence from that model weighs in how probable all that is allowed is without the "
        "constraint: the part of the divergence that beta, which looks at allowed tokens only, leaves out. With 0 "
        "nothing holds what the model would write where nothing is forbidden. Needs beta, and the output head over the "
        "whole vocabulary.",
    )
    constrained: bool = Field(
        True,
        description="Whether answers are kept to what the task allows. Without, they are free text, and rewards see "
        "what comes of it.",
    )
    answers_per_pass: int = Field(
        64,
        ge=1,
        description="Answers that go through the network at a time on a device, at most, in learning.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        """Fill in what a preset says and the recipe does not."""
        return with_preset(given, grpo_settings())

    @model_validator(mode="after")
    def _reference_and_constraint(self) -> Self:
        if self.beta_allowed and not self.constrained:
            raise ValueError(
                f"beta_allowed = {self.beta_allowed:g} does nothing without a constraint; leave it out"
            )
        if self.beta_allowed and not self.beta:
            raise ValueError(
                f"beta_allowed = {self.beta_allowed:g} needs the reference, which beta = 0 does without; give beta too"
            )
        return self

    @field_validator("task")
    @classmethod
    def _rewardable(cls, task: str) -> str:
        able = [name for name, t in TASKS.items() if t.answer in _ANSWERS and t.kind == "single"]
        if task not in able:
            raise ValueError(
                f"{task!r} is no task that can be rewarded; there are: {listing(able, 20)}"
            )
        return task


class WatchRecipe(Config):
    """What is measured on held-out cells meanwhile: that which is not rewarded, too."""

    every: int = Field(
        25, ge=1, description="Steps between measurements; the first is before the first step."
    )
    cells: int = Field(
        200,
        ge=0,
        description="Cells that are generated for it, of the conditions of validation cells, at least 2 of each; "
        "0: none.",
    )
    labels: int = Field(
        256,
        ge=0,
        description="Validation samples of tasks whose answer is a label, to see what is forgotten; 0: none.",
    )


class AlignmentRecipe(Config):
    """Alignment with rewards: group relative policy optimisation (SPEC §7)."""

    stage: Literal["grpo"] = Field(
        description="'grpo': answers are drawn, rewarded and learned from."
    )
    base: BaseRecipe = Field(
        description="The fine-tuned model that is aligned, which is also the reference."
    )
    data: DataRecipe = Field(
        description="The corpus whose training cells are asked for and compared with."
    )
    policy: PolicyRecipe = Field(
        default_factory=PolicyRecipe, description="How groups are drawn and learned from."
    )
    rewards: list[AnyReward] = Field(
        min_length=1, description="What is rewarded; the weighted sum counts."
    )
    optimisation: OptimisationRecipe = Field(
        description="How long and how fast; batch_size counts the prompts of a step, each answered by a group. An "
        "epoch asks for every condition, or cell, once."
    )
    lora: LoraRecipe | None = Field(
        None, description="Train an adapter instead of the weights (extra lora)."
    )
    evaluation: WatchRecipe = Field(
        default_factory=WatchRecipe, description="What is measured meanwhile."
    )
    save_every: int = Field(50, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints that are kept.")
    trackers: list[Tracker] = Field(
        default_factory=list, description="Where numbers are sent to beside log.jsonl."
    )
    push_to_hub: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="As in a training recipe."
    )
    seed: int = Field(0, ge=0, description="Draws prompts, answers and order.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.base.model is None:
            raise ValueError(
                "base.model is missing: what is aligned is a model that was trained before"
            )
        if self.base.quantize is not None:
            raise ValueError("base.quantize: models in 4 bits are not aligned; leave it out")
        if self.base.device_map is not None:
            raise ValueError("base.device_map: alignment runs on whole devices; leave it out")
        for name, given, unused in (
            ("base.context", self.base.context, None), ("base.extend", self.base.extend, "linear"),
            ("data.inverse", self.data.inverse, None), ("data.workers", self.data.workers, 0),
            ("data.validation", self.data.validation, 256),
            ("optimisation.tokens_per_pass", self.optimisation.tokens_per_pass, 8192),
        ):  # fmt: skip
            if given != unused:
                raise ValueError(f"{name} = {given} does nothing in alignment; leave it out")
        if self.save_every % self.policy.iterations:
            raise ValueError(
                f"save_every = {self.save_every} must be a multiple of policy.iterations = {self.policy.iterations}, "
                "so that a resumed run draws the same answers"
            )
        return self
