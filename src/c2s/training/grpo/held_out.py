"""What a policy is measured by on held-out cells while it is aligned: that which is not rewarded, too."""

from __future__ import annotations

import numpy as np
import torch

from c2s.common.errors import warn
from c2s.common.seeds import generator
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_answers, label_prompts
from c2s.models.directory import Model
from c2s.tasks.registry import TASKS
from c2s.training.grpo.policy import log_probabilities_of
from c2s.training.grpo.questions import CorpusCells, Questions
from c2s.training.grpo.recipe import PolicyRecipe, WatchRecipe
from c2s.training.rewards.base import RealCells
from c2s.training.rewards.space import CellSpace
from c2s.training.rewards.watch import watch


class HeldOut:
    """Measures cells generated for the conditions of validation cells against those, and labels of validation samples.

    Parameters
    ----------
    model
        As it is trained, with the head of the policy (`add_policy_head`) when it is measured.
    policy, recipe
        The task, and how much is measured.
    cells
        Validation cells.
    train
        Training cells: what is near to them may be copied.
    space
        Of the metrics, fitted on training cells.
    seed
        Draws what is generated, the same each time.
    """

    def __init__(
        self,
        model: Model,
        policy: PolicyRecipe,
        recipe: WatchRecipe,
        cells: CorpusCells,
        train: RealCells,
        space: CellSpace | None,
        seed: int,
    ) -> None:
        self.train, self.policy = train, policy
        self.space, self.temperature = space, policy.temperature
        self.questions: Questions | None = None
        asked = policy.model_copy(update={"prompts": "conditions"})
        if recipe.cells and len(cells.cells):
            self.questions = Questions(model, asked, cells, seed + 1)
            n_conditions = len(self.questions.real.conditions)
            self._numbers = np.repeat(np.arange(n_conditions), max(2, recipe.cells // n_conditions))
        elif recipe.cells:
            warn(
                "evaluation.cells: the corpus has no validation cells; nothing is generated for them"
            )
        self.labels = _Labels(model, cells, recipe.labels, seed)

    def __call__(self) -> dict[str, float]:
        """Return the measures by name."""
        found: dict[str, float] = {}
        if self.questions is not None:
            numbers = self._numbers.tolist()
            answers = self.questions.write(numbers, list(range(len(numbers))), self.temperature)
            rollouts = self.questions.read(numbers, answers)
            found |= watch(rollouts, self.questions.real, self.space, self.train)
            if self.policy.constrained:
                found["allowed"] = self._allowed(self.questions, answers)
        return found | self.labels()

    @torch.no_grad()
    def _allowed(self, questions: Questions, answers: list[np.ndarray]) -> float:
        """Return how probable all that was allowed is to the network itself, a mean over the tokens of answers."""
        network, pad = questions.model.network, questions.model.tokenizer.pad_id
        prompts = [questions.question(n).ids for n in self._numbers.tolist()]
        before, after = max(map(len, prompts)), max(map(len, answers))
        ids = torch.full((len(answers), before + after), pad)
        there = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            at = slice(before - len(prompt), before + len(answer))
            ids[row, at] = torch.from_numpy(np.concatenate([prompt, answer])).long()
            there[row, at] = 1
        log_allowed = log_probabilities_of(
            network, ids.to(network.device), there.to(network.device), after, questions.constraint,
            self.policy.answers_per_pass, unconstrained=True,
        )[2]  # fmt: skip
        assert log_allowed is not None
        return float(log_allowed.cpu().exp()[there[:, before:].bool()].mean())


class _Labels:
    """How often the most probable label of validation cells is the true one, for each task whose answer is a label."""

    def __init__(self, model: Model, cells: CorpusCells, most: int, seed: int) -> None:
        self._engine = TransformersEngine(model)
        self._asked: dict[str, tuple[list[np.ndarray], list[list[int]], np.ndarray]] = {}
        for name in model.card.tasks:
            task = TASKS[name]
            labels = model.known(task.target)
            if model.card.pathways is not None and name in model.card.pathways.tasks:
                continue  # what it names before a label is not written here
            if task.answer != "label" or task.kind != "single" or not labels or not most:
                continue
            own = cells.with_texts([n for n in task.needs if n in cells.fields])
            if not len(own.cells):
                continue
            rows = generator(seed, "labels", name).permutation(len(own.cells))[:most]
            shown = own.cells.head(model.card.top_k)
            prompts = label_prompts(
                model, task, shown, {n: own.fields[n] for n in task.conditions}, rows
            )
            number = {label: k for k, label in enumerate(labels)}
            true = np.array([number.get(str(own.fields[task.target][r]), -1) for r in rows])
            self._asked[name] = (prompts, label_answers(model, task, labels), true)

    def __call__(self) -> dict[str, float]:
        """Return the accuracy of each task as `accuracy_TASK`; a cell whose type the model does not know is wrong."""
        return {
            f"accuracy_{name}": float(
                (self._engine.score(prompts, answers).argmax(1) == true).mean()
            )
            for name, (prompts, answers, true) in self._asked.items()
        }
