"""What a model of a scaling study is measured by: losses, labels and generated cells of held-out samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from c2s.cells.inverse import sentence_words
from c2s.common.errors import UsageError
from c2s.constraints.trie import GeneSentenceState
from c2s.corpus.reader import ShardReader
from c2s.corpus.show import read_manifest
from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.pathways import behind_lines, line_sampling, with_pathways
from c2s.decoding.prompts import label_answers
from c2s.decoding.sampling import Sampling
from c2s.metrics.sentences import overlap
from c2s.metrics.texts import bertscore
from c2s.tasks.base import Task
from c2s.tasks.registry import TASKS
from c2s.training.measure import has_room, sample_losses, say_left_out
from c2s.training.samples import TokenSample, samples_of

if TYPE_CHECKING:
    from c2s.metrics.texts import TextEncoder
    from c2s.models.directory import Model

#: Cells that are written at a time: those of like length, so that few genes are written in vain.
_TOGETHER = 64

#: Values of each metric of each task, one a held-out sample, float64 arrays.
Measured = dict[tuple[str, str], np.ndarray]


def held_out_samples(corpus: Path, n: int, seed: int) -> dict[str, list[TokenSample]]:
    """Return so many test samples of every task, fewer where there are fewer.

    Raises
    ------
    UsageError
        The corpus has no test samples.
    """
    counts = read_manifest(corpus)["samples"].get("test", {})
    found = {}
    for task in [t for t in TASKS if counts.get(t)]:
        reader = ShardReader(
            corpus,
            "test",
            packed=False,
            tasks=[task],
            seed=seed,
            epochs=1,
            rank=0,
            world_size=1,
        )
        items = itertools.islice(reader, n)
        found[task] = [s for item in items for s in samples_of(item, reader.task_names)]
    if not found:
        raise UsageError(
            "corpus.split: no test samples, and held-out samples are what is measured; give test a larger share"
        )
    return found


def measure(
    model: Model,
    samples: dict[str, list[TokenSample]],
    *,
    generated: int,
    temperature: float,
    seed: int,
    tokens_per_pass: int = 8192,
    encoder: TextEncoder | None = None,
) -> Measured:
    """Return losses of all tasks, hits of tasks that answer with a label, and overlaps of generated cells.

    Parameters
    ----------
    model
        With its weights.
    samples
        By task; see `held_out_samples`.
    generated
        How many cells are generated of each task of one cell.
    temperature, seed
        Of generated cells.
    tokens_per_pass
        Tokens that go through the network at a time.
    encoder
        Where given, BERTScore of answered labels too.

    Returns
    -------
    dict
        By task and metric: "loss" (nats a token of the response), "accuracy" (0 or 100), "overlap" (percent of genes)
        and "bertscore" (percent), each float64 of shape (n_samples,). NaN where the prompt of a sample leaves no room
        for the longest answer in the model's context, with a warning.
    """
    found: Measured = {}
    for name, own in samples.items():
        found[name, "loss"] = sample_losses(model, own, "response", tokens_per_pass)[name]
        task = TASKS[name]
        if task.answer == "label" and len(model.known(task.target)) > 1:
            fits = label_room(model, task, own)
            found[name, "accuracy"] = np.full(len(own), np.nan)
            if encoder is not None:
                found[name, "bertscore"] = np.full(len(own), np.nan)
            asked = [own[i] for i in np.flatnonzero(fits)]
            if not asked:
                continue
            answered, true = label_answered(model, task, asked)
            hits = np.array([a == t for a, t in zip(answered, true, strict=True)], float)
            found[name, "accuracy"][fits] = 100 * hits
            if encoder is not None:
                found[name, "bertscore"][fits] = 100 * bertscore(answered, true, encoder)
        if task.answer == "cell" and generated:
            found[name, "overlap"] = gene_overlaps(
                model, task, own[:generated], temperature=temperature, seed=seed
            )
    return found


def label_room(model: Model, task: Task, samples: Sequence[TokenSample]) -> np.ndarray:
    """Return behind which prompts every label fits into the context; warn of others. bool, shape (n_samples,)."""
    answers = label_answers(model, task, model.known(task.target))
    fits = has_room(model, task, samples, max(map(len, answers)))
    say_left_out(int((~fits).sum()), len(samples), f"the accuracy of {task.id}")
    return fits


def label_answered(
    model: Model, task: Task, samples: Sequence[TokenSample]
) -> tuple[list[str], list[str]]:
    """Return the most probable label behind each prompt, of all that the model was trained on, and the true one."""
    labels = model.known(task.target)
    prompts = [s.ids[: s.prompt_length] for s in samples]
    engine = TransformersEngine(model)
    planned = with_pathways(engine, model, task, prompts, Sampling(temperature=0))
    scores = engine.score(planned.prompts, label_answers(model, task, labels))
    # Read by the answer's tokens: a label that was never trained on is true all the same.
    true = _texts(model, task, samples)
    parsed = [task.parse_label(text, labels) or text for text in true]
    return [labels[k] for k in scores.argmax(1)], parsed


def gene_overlaps(
    model: Model, task: Task, samples: Sequence[TokenSample], *, temperature: float, seed: int
) -> np.ndarray:
    """Return what share of the genes of each true cell is in a cell generated for its prompt, in percent.

    A generated cell is cut to as many genes as the true one has. NaN where a prompt leaves no room for the longest
    cell that is written together with its own, with a warning.
    """
    words = [sentence_words(text, model.vocabulary) for text in _texts(model, task, samples)]
    true = [columns[columns >= 0] for columns in words]
    sizes = np.array([len(cell) for cell in true])
    columns = np.arange(len(model.vocabulary), dtype=np.int32)
    texts = texts_around(task, model.prompts.wording(task.id), 1)
    engine, found = TransformersEngine(model), np.full(len(samples), np.nan)
    order = np.argsort(sizes, kind="stable")
    for k, start in enumerate(range(0, len(order), _TOGETHER)):
        rows = order[start : start + _TOGETHER]
        choice = GeneChoice(
            columns, min(int(sizes[rows].max()), len(columns)), np.empty(0, np.int32)
        )
        begin, constraint = answer_constraint(model, texts, choice)
        longest = len(begin) + constraint.max_tokens
        rows = rows[has_room(model, task, [samples[i] for i in rows], longest)]
        if not len(rows):
            continue
        asked = [samples[i].ids[: samples[i].prompt_length] for i in rows]
        # Draws belong to the place of a prompt in its call: every call needs a seed of its own.
        sampling = Sampling(temperature, seed=seed + k)
        planned = with_pathways(engine, model, task, asked, line_sampling(sampling))
        prompts = [np.append(prompt, begin) for prompt in planned.prompts]
        states = engine.generate(prompts, constraint, sampling)
        for i, state in zip(rows, states, strict=True):
            written = cast(GeneSentenceState, state).genes  # columns, as all are allowed
            found[i] = overlap(written[: sizes[i]], true[i].tolist())
    say_left_out(int(np.isnan(found).sum()), len(samples), f"the overlap of {task.id}")
    return found


def _texts(model: Model, task: Task, samples: Sequence[TokenSample]) -> list[str]:
    """Return the answers of samples, without pathways before them."""
    responses = behind_lines(model, task, [s.ids[s.prompt_length :] for s in samples])
    end = model.tokenizer.eos_id
    return [model.tokenizer.decode(r[:-1] if r[-1] == end else r) for r in responses]
