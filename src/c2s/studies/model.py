"""The model of a study: trained on its training cells, or loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import UsageError, listing
from c2s.common.progress import OnStage
from c2s.models.directory import Model, load_model
from c2s.studies.cells import TRAIN, StudyCells
from c2s.studies.recipe import StudyRecipe
from c2s.studies.train import Columns, TrainRecipe, train_model

if TYPE_CHECKING:
    from anndata import AnnData

#: Column of obs that labels are trained under; the data's own may have another name, or be several.
_LABEL = "cell_type"


@dataclass(frozen=True)
class StudyModel:
    """A model with what a result must say about it.

    Attributes
    ----------
    model
        Ready to be asked.
    views
        Wordings and draws of ties that annotation averages.
    trained
        It was trained in this run, on its training cells.
    facts
        Where it comes from, as JSON can hold it.
    """

    model: Model
    views: int
    trained: bool
    facts: dict[str, Any]

    def sentence(self) -> str:
        """Say what is known of what the model has seen."""
        if self.trained:
            cells = self.facts["cells"]
            return (
                f"The model ({self.facts['parameters']:,} parameters) was trained in this run, on "
                f"{cells['train']:,} of the training cells; {cells['val']:,} of them were set aside as its validation "
                "cells, which baselines do train on."
            )
        return (
            f"The model ({self.facts['parameters']:,} parameters) is {self.facts['source']}. Nothing here can tell "
            "whether it has seen these test cells in its training; if it has, its numbers mean nothing."
        )


def check_model(recipe: StudyRecipe, tasks: tuple[str, ...]) -> None:
    """Refuse training settings that leave out a task that the study asks for."""
    if recipe.train is None:
        return
    missing = [task for task in tasks if task not in recipe.train.tasks]
    if missing:
        raise UsageError(
            f"train.tasks: the study measures {missing[0]!r}, and the model is trained on "
            f"{listing([str(task) for task in recipe.train.tasks])} only; add it"
        )


def open_model(recipe: StudyRecipe, device: str | None) -> StudyModel | None:
    """Load the model that a recipe names, if it names one; errors as `c2s.load_model`."""
    if recipe.model is None:
        return None
    model = load_model(recipe.model, device=device)
    facts = {"source": recipe.model, "parameters": model.n_parameters, "trained": False}
    return StudyModel(model, 1, False, facts)


def train_on(
    cells: StudyCells, recipe: StudyRecipe, device: str | None, on_stage: OnStage
) -> StudyModel:
    """Train the model of a recipe on the training cells alone: test cells are not even handed over."""
    if recipe.train is None:
        raise UsageError("the recipe names no model: give 'train' or 'model'")
    settings = recipe.train.model_dump(exclude={"validation"})
    share = recipe.train.validation
    training = TrainRecipe.model_validate(
        {
            **settings,
            "data": cells.name,
            "split": (1 - share, share, 0.0),
            "columns": Columns(cell_type=_LABEL, organism="organism"),
            "seed": recipe.seed,
        }
    )
    trained = train_model(_labelled(cells), training, cells.name, device=device, on_stage=on_stage)
    facts = {
        "source": "trained in this run",
        "trained": True,
        "parameters": trained.model.n_parameters,
        "genes": len(trained.cells.vocabulary),
        "cells": trained.model.card.training["cells"],
        "generation": dict(trained.model.card.generation),
        "seconds": {k: round(v, 1) for k, v in trained.seconds.items()},
    }
    return StudyModel(trained.model, recipe.train.views, True, facts)


def _labelled(cells: StudyCells) -> AnnData:
    rows = cells.rows(TRAIN)
    adata = cells.adata(rows)
    adata.obs[_LABEL] = cells.labels[rows]
    return adata


def study_model(
    cells: StudyCells,
    recipe: StudyRecipe,
    opened: StudyModel | None,
    device: str | None,
    on_stage: OnStage,
) -> StudyModel | None:
    """Return the model of a study: the one that was opened, one trained now, or None."""
    if (
        opened is not None and opened.model.any_gene
    ):  # a released checkpoint: it takes the study's genes
        return replace(opened, model=opened.model.with_genes(cells.vocabulary))
    if opened is not None or recipe.train is None:
        return opened
    return train_on(cells, recipe, device, on_stage)


def generated_labels(model: StudyModel, labels: np.ndarray) -> np.ndarray:
    """Return labels as the model knows them; one that it never saw is named in a warning and kept.

    Combinations that are held out on purpose are not known to a model that was trained here, and are no surprise.
    """
    if model.trained:
        return labels
    known = {str(v): model.model.check_condition("cell_type", str(v)) for v in sorted(set(labels))}
    return np.array([known[str(label)] for label in labels], dtype=object)
