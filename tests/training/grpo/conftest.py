"""What tests of alignment share."""

import copy
from pathlib import Path

import pytest
import torch

from c2s.training.grpo.recipe import AlignmentRecipe


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def by_hand():
    """Return a function: log p of each token of an answer and the entropy, from whole logits, a token at a time."""

    def compute(network, prompt, answer, constraint, temperature):
        state, ids, chosen, entropy = constraint.start(), list(prompt), [], []
        for token in answer:
            logits = network(torch.tensor([ids])).logits[0, -1] / temperature
            allowed = state.allowed().tolist()
            p = torch.softmax(logits[allowed], 0)
            chosen.append(p[allowed.index(token)].log())
            entropy.append(-(p * p.log()).sum())
            state.advance(token)
            ids.append(token)
        return torch.stack(chosen), torch.stack(entropy)

    return compute


class Opened:
    """A trainer before its first step, with the network as it was before TRL and we changed anything."""

    def __init__(self, model, trainer, plain):
        self.model, self.trainer, self.plain = model, trainer, plain
        trainer.current_gradient_accumulation_steps = 1

    def reward(self, function):
        """Have answers rewarded by a function of `Rollouts`, instead of what the recipe says."""
        from c2s.training.rewards.base import OpenedReward

        self.trainer.rewards = [OpenedReward("own", 1.0, function)]
        return self

    def draw(self, first=0):
        """Return what TRL learns from: the answers to the first questions from `first` on, rewarded."""
        trainer = self.trainer
        trainer.model.train()
        per_step = trainer.args.generation_batch_size // trainer.num_generations
        rows = [{"prompt": str(first + n)} for n in range(per_step) for _ in range(trainer.num_generations)]  # fmt: skip
        return trainer._generate_and_score_completions(rows)

    def loss(self, inputs):
        """Return the loss of answers, with gradients left on the network, and what would be logged."""
        trainer = self.trainer
        trainer._metrics["train"].clear()
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        return loss.item(), {k: v[-1] for k, v in trainer._metrics["train"].items()}

    def pieces(self, inputs):
        """Yield prompt and answer of each row, without padding."""
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        for prompt, there, answer, written in zip(*(inputs[n] for n in names), strict=True):
            yield prompt[there.bool()].tolist(), answer[written.bool()].tolist()


@pytest.fixture
def open_run(recipe, tmp_path):
    """Return a function that opens a run of a recipe, up to its first step."""
    from c2s.models.directory import load_model
    from c2s.training.grpo.opening import open_alignment
    from c2s.training.grpo.run import PreparedAlignment

    def make(**changes):
        made = recipe(**changes)
        run = PreparedAlignment(made, tmp_path, made.base.model, Path(made.data.corpus))
        model, trainer = open_alignment(run, tmp_path / "checkpoints", "cpu")
        return Opened(model, trainer, load_model(run.base, device="cpu").network)

    return make


@pytest.fixture(scope="session")
def restless_folder(model_folder, tmp_path_factory):
    """The small model, saved with dropout in all its places."""
    from c2s.models.directory import Model, load_model

    model = load_model(model_folder, device="cpu")
    network = copy.deepcopy(model.network)
    network.config.hidden_dropout = network.config.attention_dropout = 0.3
    folder = tmp_path_factory.mktemp("restless") / "model"
    Model(network, model.tokenizer, model.card).save(folder)
    return folder
