"""What a network in training is measured by beside its loss: answers that are labels, and intervals of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from c2s.common.errors import UsageError, counted, warn
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.pathways import behind_lines, line_tokens, with_pathways
from c2s.decoding.prompts import label_answers
from c2s.decoding.sampling import Sampling
from c2s.metrics.bootstrap import bootstrap_interval
from c2s.models.attention import PromptReach
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tasks.registry import TASKS
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.processes import is_first
from c2s.training.recipe import Learn
from c2s.training.samples import TokenSample, flatten, split_into_passes


@contextmanager
def attending_with(network: Any, implementation: str) -> Iterator[None]:
    """Have a network attend in another way for a while, and compute as it does when it is not trained."""
    before, training = network.config._attn_implementation, network.training
    network.set_attn_implementation(implementation)
    network.eval()
    try:
        yield
    finally:
        network.set_attn_implementation(before)
        network.train(training)


def has_room(model: Model, task: Task, samples: Sequence[TokenSample], longest: int) -> np.ndarray:
    """Return whether an answer fits into the model's context behind each prompt. bool, shape (n_samples,).

    A corpus holds samples whose own answer fits; another one may be longer.

    Parameters
    ----------
    model, task, samples
        What is asked; pathways that the model names before answers to the task need room too.
    longest
        Tokens of the longest answer.
    """
    lengths = np.array([s.prompt_length for s in samples], np.int64)
    context: int | None = getattr(model.config, "max_position_embeddings", None)
    needed = lengths + line_tokens(model, task) + longest
    return np.ones(len(samples), bool) if context is None else needed <= context


def say_left_out(n: int, of: int, what: str) -> None:
    """Warn, once for all processes, that samples were left out of a measurement, if any were."""
    if n and is_first():
        warn(
            f"{n:,} of {counted(of, 'sample')} left out of {what}: prompt and longest answer do not fit into the "
            "model's context"
        )


class LabelAccuracy:
    """How often the most probable of the labels that are trained on is the true one, on given samples.

    Labels are scored as annotation does (`TransformersEngine.score`), exactly and all at once, behind the pathways that
    the model names where it learns to. A sample whose true label is none of those counts as wrong; one whose prompt
    leaves no room for the longest label is left out, with a warning.

    Parameters
    ----------
    model
        Its network may change; it attends now as it does when it is asked.
    samples
        Samples of any tasks; those of tasks whose answer is a label are used.
    labels
        The labels that are trained on, by the field that is the answer.
    tasks
        Only these tasks.
    """

    def __init__(
        self,
        model: Model,
        samples: Sequence[TokenSample],
        labels: Mapping[str, Sequence[str]],
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self._implementation: str = model.network.config._attn_implementation
        self._asked: dict[str, tuple[list[np.ndarray], list[list[int]], np.ndarray]] = {}
        n_left_out = n_samples = 0
        for name in sorted({s.task for s in samples if s.task is not None}):
            task = TASKS[name]
            if task.answer != "label" or (tasks is not None and name not in tasks):
                continue
            if not labels.get(task.target):
                continue
            answers = label_answers(model, task, labels[task.target])
            number = {tuple(answer): k for k, answer in enumerate(answers)}
            of_task = [s for s in samples if s.task == name]
            fits = has_room(model, task, of_task, max(map(len, answers)))
            own = [s for s, has in zip(of_task, fits, strict=True) if has]
            n_left_out, n_samples = n_left_out + len(of_task) - len(own), n_samples + len(of_task)
            if not own:
                continue
            responses = behind_lines(model, task, [s.ids[s.prompt_length :] for s in own])
            true = [number.get(tuple(response), -1) for response in responses]
            prompts = [s.ids[: s.prompt_length].astype(np.int32) for s in own]
            self._asked[name] = (prompts, answers, np.array(true))
        say_left_out(n_left_out, n_samples, "the accuracy of labels")

    @property
    def tasks(self) -> list[str]:
        """The tasks that are measured."""
        return list(self._asked)

    def right(self) -> dict[str, np.ndarray]:
        """Return whether each sample is answered rightly, by task. bool, shape (n_samples of it,)."""
        found = {}
        with attending_with(self.model.network, self._implementation):
            engine = TransformersEngine(self.model)
            for name, (prompts, answers, true) in self._asked.items():
                planned = with_pathways(
                    engine, self.model, TASKS[name], prompts, Sampling(temperature=0)
                )
                found[name] = engine.score(planned.prompts, answers).argmax(1) == true
        return found

    def __call__(self) -> dict[str, float]:
        """Return the accuracy of each task as `accuracy_TASK`."""
        return {f"accuracy_{name}": float(right.mean()) for name, right in self.right().items()}


def best_measure(
    model: Model,
    best: str | None,
    samples: Sequence[TokenSample],
    labels: Mapping[str, Sequence[str]],
) -> LabelAccuracy | None:
    """Return what measures the accuracy that the best weights are chosen by; None where it is a loss, or nothing.

    Raises
    ------
    UsageError
        There is nothing to measure it on.
    """
    if best is None or not best.startswith("accuracy_"):
        return None
    task = best.removeprefix("accuracy_")
    measure = LabelAccuracy(model, samples, labels, [task])
    if not measure.tasks:
        raise UsageError(
            f"evaluation.best = {best}: no validation sample is of the task {task!r} and leaves room for its labels in "
            "the context; give more with data.validation, or another measure"
        )
    return measure


def sample_losses(
    model: Model,
    samples: Sequence[TokenSample],
    learn: Learn,
    tokens_per_pass: int,
) -> dict[str, np.ndarray]:
    """Return the mean loss of the learned tokens of each sample, by task and in order, in nats a token.

    float64 arrays, shape (n_samples of the task,).
    """
    attention, network = model.card.attention, model.network
    packed = PackedNetwork(network, attention=attention)
    reach = None if attention.is_causal else PromptReach(attention, model.tokenizer)
    losses = np.empty(len(samples))
    training = network.training
    network.eval()
    with attending_packed(network), torch.inference_mode():
        for rows in split_into_passes([len(s.ids) for s in samples], tokens_per_pass):
            batch = flatten([samples[i] for i in rows], learn, reach=reach)
            losses[rows] = packed(batch.to(network.device), 1.0)[1].cpu().double().numpy()
    network.train(training)
    tasks = np.array([s.task or "unknown" for s in samples])
    return {str(name): losses[tasks == name] for name in np.unique(tasks)}


def intervals(
    values: Mapping[str, np.ndarray], prefix: str, seed: int
) -> dict[str, dict[str, float]]:
    """Return mean and 95 % interval of each list of values, by resampling samples.

    Returns
    -------
    dict
        As ``{"loss_cell_type": {"value": …, "low": …, "high": …, "n": …}}``.
    """
    found = {}
    for name, each in values.items():
        low, high = bootstrap_interval(np.mean, each.astype(float), seed=seed)
        found[f"{prefix}_{name}"] = {
            "value": float(each.mean()), "low": float(low), "high": float(high), "n": len(each),
        }  # fmt: skip
    return found
