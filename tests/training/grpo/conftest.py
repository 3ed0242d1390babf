"""What tests of alignment share."""

import pytest

from c2s.training.grpo.recipe import AlignmentRecipe


@pytest.fixture
def recipe(small_corpus, model_folder):
    """Return a function that makes a recipe on the small corpus and the small model, with changes by section."""

    def make(**changes):
        content = {
            "stage": "grpo",
            "base": {"model": str(model_folder)},
            "data": {"corpus": str(small_corpus / "corpus")},
            "policy": {"group": 4, "beta": 0.05},
            "rewards": ["energy_distance"],
            "optimisation": {"steps": 4, "batch_size": 2, "learning_rate": 0.003, "schedule": "constant"},
            "evaluation": {"every": 2, "cells": 20, "labels": 10},
            "save_every": 2,
        }  # fmt: skip
        for section, values in changes.items():
            here = content.get(section)
            content[section] = {**here, **values} if isinstance(here, dict) and values else values
        return AlignmentRecipe.parse(content, "the recipe")

    return make
