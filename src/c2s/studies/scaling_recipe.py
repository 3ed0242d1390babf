"""Recipes of scaling studies: which sizes, how much data, all weights or adapters, and what is measured (SPEC §16)."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from c2s.common.config import Config
from c2s.common.errors import UsageError
from c2s.corpus.recipe import CorpusRecipe
from c2s.models.presets import PRESETS
from c2s.training.recipe import EvaluationRecipe, OptimisationRecipe

#: How a cell of the grid is trained: all weights, or an adapter.
Method = Literal["full", "lora"]


class SizeRecipe(Config):
    """A size of the family: a shape with random weights, a preset, or a trained model."""

    name: str = Field(description="What folders and figures call it: letters, digits, . _ and -.")
    hidden: int | None = Field(
        None, ge=8, description="Width of a GPT-NeoX whose feed-forward layers are 4 times as wide."
    )
    layers: int | None = Field(None, ge=1, description="Its layers.")
    heads: int | None = Field(None, ge=1, description="Its attention heads.")
    preset: str | None = Field(
        None, description=f"Instead: a shape that is known by name: {', '.join(PRESETS)}."
    )
    model: str | None = Field(
        None,
        description="Instead: trained weights, a folder or a hub id; the corpus's tokenizer must be theirs.",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Instead of that of 'optimisation'; large models want a lower one."
    )
    gradient_checkpointing: bool = Field(False, description="As in a training recipe.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name {self.name!r} cannot name a folder: letters, digits, . _ and -")
        shape = [self.hidden, self.layers, self.heads]
        kinds = [any(v is not None for v in shape), self.preset is not None, self.model is not None]
        if sum(kinds) != 1 or (kinds[0] and None in shape):
            raise ValueError(
                f"size {self.name!r}: give 'hidden', 'layers' and 'heads', or 'preset', or 'model'"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset!r}; there are: {', '.join(PRESETS)}")
        # Rotary positions turn pairs of numbers.
        if self.hidden is not None and self.heads is not None and self.hidden % (2 * self.heads):
            raise ValueError(
                f"size {self.name!r}: hidden {self.hidden:,} must be a multiple of twice its heads ({self.heads:,})"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Width, layers and heads, where the size is given by them."""
        if self.hidden is None or self.layers is None or self.heads is None:
            return None
        return self.hidden, self.layers, self.heads


class AdapterRecipe(Config):
    """The cells of the grid that train an adapter and not the weights."""

    base: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the data that the base of an adapter was trained on: the fully trained model of the "
        "same size and seed. By default the smallest of 'fractions'. Trained weights are their own base.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Fields of 'lora' in a training recipe, such as rank."
    )
    optimisation: OptimisationRecipe | None = Field(
        None, description="How long and how fast adapters are trained; by default as all weights."
    )


class TextScoreRecipe(Config):
    """What BERTScore is measured with."""

    folder: str = Field(description="Hugging Face folder of a BERT or RoBERTa.")
    layers: int = Field(ge=1, description="The layer whose output is compared.")


class ScalingRecipe(Config):
    """A scaling study."""

    title: str = Field("Scaling study", description="What the study is called.")
    corpus: str | CorpusRecipe = Field(
        description="A corpus recipe, or the path of one. Its test split is measured on."
    )
    sizes: list[SizeRecipe] = Field(min_length=1, description="The family, of one architecture.")
    fractions: list[float] = Field(
        default_factory=lambda: [1.0],
        min_length=1,
        description="Shares of the training samples: samples_per_cell, and samples_per_gene_set, are multiplied by "
        "them. The split of the cells stays.",
    )
    adapters: AdapterRecipe | None = Field(
        None,
        description="Train adapters too (extra lora): from each base at every larger fraction.",
    )
    stage: Literal["pretrain", "sft"] = Field("sft", description="As in a training recipe.")
    optimisation: OptimisationRecipe = Field(
        description="As in a training recipe. With 'epochs', more data takes more steps; with 'steps' it does not."
    )
    evaluation: EvaluationRecipe = Field(
        default_factory=EvaluationRecipe,
        description="As in a training recipe; 'best' keeps the best weights, which matters where little data is "
        "gone through often.",
    )
    validation: int = Field(
        0,
        ge=0,
        description="Samples of the split 'val' that the loss is measured on during training.",
    )
    seeds: int = Field(
        1, ge=1, description="Trainings of each size; they differ in weights and order."
    )
    held_out: int = Field(
        500, ge=2, description="Held-out samples of each task that are measured (SPEC §16)."
    )
    generated: int = Field(
        500, ge=0, description="Of them, cells that are generated for the overlap of genes."
    )
    temperature: float = Field(1.0, ge=0, description="Of generated cells.")
    bertscore: TextScoreRecipe | None = Field(
        None, description="Score answered labels as texts too."
    )
    resamples: int = Field(1000, ge=20, description="Bootstrap resamples of the intervals.")
    seed: int = Field(0, ge=0, description="Draws everything.")

    @model_validator(mode="after")
    def _grid(self) -> Self:
        names = [s.name for s in self.sizes]
        for what, values in (("sizes", names), ("fractions", self.fractions)):
            twice = [v for i, v in enumerate(values) if v in values[:i]]
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} stands there twice")
        for share in self.fractions:
            if not 0 < share <= 1:
                raise ValueError(f"fractions: {share} is not above 0 and at most 1")
        if self.evaluation.best is not None and not self.validation:
            raise ValueError("evaluation.best needs validation samples; validation is 0")
        self._check_adapters()
        return self

    def _check_adapters(self) -> None:
        """Refuse adapters without a base, or without a cell of the grid."""
        if self.adapters is None:
            return
        if {"keep"} & set(self.adapters.settings):
            raise ValueError("adapters.settings.keep: models that are measured are merged")
        if all(s.model is not None for s in self.sizes):
            return
        base = self.adapter_base
        if base not in self.fractions:
            raise ValueError(f"adapters.base {base} is not one of the fractions {self.fractions}")
        if base >= max(self.fractions):
            raise ValueError(
                f"adapters need a fraction above that of their base ({base}); give a smaller one in 'fractions'"
            )

    @property
    def adapter_base(self) -> float:
        """The share of the data that bases of adapters were trained on."""
        chosen = None if self.adapters is None else self.adapters.base
        return min(self.fractions) if chosen is None else chosen


def find_scaling(name_or_path: str) -> tuple[ScalingRecipe, Path]:
    """Return the recipe that a text stands for, a file or a packaged one, and where its relative paths begin.

    Raises
    ------
    InputError, UsageError
        There is neither, or the recipe cannot work; the message names the field.
    """
    path = Path(name_or_path)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return ScalingRecipe.read(path), path.resolve().parent
    folder = resources.files("c2s.studies").joinpath("recipes")
    names = sorted(e.name for e in folder.iterdir() if e.name.endswith("-scaling.yaml"))
    if f"{name_or_path}.yaml" not in names:
        known = ", ".join(n.removesuffix(".yaml") for n in names)
        raise UsageError(
            f"there is no file {name_or_path!r} and no scaling study of that name; the packaged ones are {known}"
        )
    with resources.as_file(folder.joinpath(f"{name_or_path}.yaml")) as packaged:
        return ScalingRecipe.read(packaged), packaged.parent
