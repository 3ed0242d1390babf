"""The line of pathways before an answer (SPEC §17, row 4): written first, under its own constraint, then read on.

Behind the line everything goes on as without one: labels are scored and cells are written behind prompt and line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from c2s.common.errors import InputError
from c2s.common.seeds import generator
from c2s.constraints.names import NameList, NameListState
from c2s.decoding.sampling import Sampling
from c2s.tasks.base import Task
from c2s.tasks.pathways import PathwayLine, line_constraint

if TYPE_CHECKING:
    from c2s.decoding.engine import Engine
    from c2s.models.directory import Model

#: What separates the names that verbs keep; those of a line in obs.
BETWEEN_NAMES = "; "


class Planned(NamedTuple):
    """Prompts with the line behind them that the model wrote.

    Attributes
    ----------
    prompts
        Token ids of prompt and line.
    pathways
        The names of each line, as "hypoxia; apoptosis"; None where the task has no line.
    """

    prompts: list[np.ndarray]
    pathways: list[str] | None


def line_before(model: Model, task: Task | None) -> PathwayLine | None:
    """Return what the model names before answers to a task; None for nothing."""
    named = model.card.pathways
    return named if named is not None and task is not None and task.id in named.tasks else None


def line_tokens(model: Model, task: Task | None) -> int:
    """Return an upper bound for the tokens of the line before answers to a task; 0 where there is none."""
    named = line_before(model, task)
    if named is None:
        return 0
    begin, constraint = line_constraint(model.tokenizer, named)
    return len(begin) + constraint.max_tokens


def line_sampling(sampling: Sampling) -> Sampling:
    """Return how the line before cells is drawn: as the cells, with draws of its own."""
    return replace(sampling, seed=int(generator(sampling.seed, "pathways").integers(2**31)))


def with_pathways(
    engine: Engine,
    model: Model,
    task: Task | None,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
) -> Planned:
    """Have the model write the line of pathways behind each prompt, where it learned one for the task.

    Parameters
    ----------
    engine, model
        What writes, and whose card says what may be named.
    task
        What is asked; None for a request that is no task.
    prompts
        Token ids.
    sampling
        How the names are drawn; temperature 0 takes the most probable tokens.

    Raises
    ------
    UsageError
        Prompt and line do not fit into the model's context.
    InputError
        The tokenizer does not keep names apart.
    """
    named = line_before(model, task)
    if named is None or not prompts:
        return Planned(list(prompts), None if named is None else [])
    begin, constraint = line_constraint(model.tokenizer, named)
    begun = [np.append(prompt, begin).astype(np.int32) for prompt in prompts]
    states = engine.generate(begun, constraint, sampling, None, len(begin))
    written = [cast(NameListState, state) for state in states]
    return Planned(
        [np.append(p, s.tokens).astype(np.int32) for p, s in zip(begun, written, strict=True)],
        [BETWEEN_NAMES.join(named.names[k] for k in s.names) for s in written],
    )


def behind_lines(
    model: Model, task: Task, responses: Sequence[Sequence[int] | np.ndarray]
) -> list[list[int]]:
    """Return the tokens of each response behind its line of pathways; all of them where the task has none.

    Raises
    ------
    InputError
        A response has no such line.
    """
    ids = [[int(token) for token in response] for response in responses]
    named = line_before(model, task)
    if named is None:
        return ids
    begin, constraint = line_constraint(model.tokenizer, named)
    return [_behind(begin, constraint, response, task) for response in ids]


def _behind(begin: list[int], constraint: NameList, ids: list[int], task: Task) -> list[int]:
    state = constraint.start()
    for token in ids[len(begin) :]:
        if state.done or token not in state.allowed():
            break
        state.advance(token)
    if ids[: len(begin)] != begin or not state.done:
        raise InputError(
            f"a sample of {task.id} has no line of pathways before its answer, as the model's c2s.json says"
        )
    return ids[len(begin) + len(state.tokens) :]
