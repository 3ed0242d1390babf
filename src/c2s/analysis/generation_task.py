"""Which task a request for cells is: the one whose conditions were given, or the nearest the model has (SPEC §4.1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from c2s.common.errors import UsageError, listing, warn
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tasks.multi_cell import MULTI_CELL_MODELING
from c2s.tasks.registry import TASKS
from c2s.tasks.single_cell import SINGLE_CELL_MODELING


def asked_fields(task: Task) -> frozenset[str]:
    """Return the conditions that tell a task from others, as they are asked for; the organism stands in all."""
    fields = {"cell_type" if name == "cell_types" else name for name in task.conditions}
    return frozenset(fields - {"organism"})


def generating_tasks(model: Model) -> list[Task]:
    """Return the tasks of a model that write cells, those of one cell first.

    Raises
    ------
    UsageError
        It has none.
    """
    known = [TASKS[name] for name in TASKS if name in model.card.tasks]
    able = [task for task in known if task.answer in ("cell", "cells")]
    if not able:
        raise UsageError(
            f"the model was not trained on generation; its tasks: {listing(model.card.tasks) or 'none'}"
        )
    return sorted(able, key=lambda task: task.kind == "multi")


def writes_every_type(model: Model, *, together: bool) -> bool:
    """Whether a request without conditions means every type the model knows: it has no task without conditions."""
    free = MULTI_CELL_MODELING if together else SINGLE_CELL_MODELING
    if free.id in model.card.tasks or not model.known("cell_type"):
        return False
    return any(
        asked_fields(task) == {"cell_type"} and (task.kind == "multi" or not together)
        for task in generating_tasks(model)
    )


def choose_task(
    model: Model, given: Collection[str], *, together: bool = False, strict: bool = False
) -> Task:
    """Return the task whose conditions are those that were given.

    Where the model has none, but one that is given the cell type, that one is tried with a warning: what else was given
    is then said in words beside the type (`in_words`), which the model did not learn.

    Parameters
    ----------
    model
        Its card names its tasks.
    given
        Names of the conditions, the organism left out.
    together
        Only tasks that write several cells in one answer.
    strict
        Refuse instead of trying.

    Raises
    ------
    UsageError
        The model has no such task; the message says which it has.
    """
    able = generating_tasks(model)
    fits = [task for task in able if task.kind == "multi" or not together]
    exact = [task for task in fits if asked_fields(task) == set(given)]
    if exact:
        return exact[0]
    has = f"it generates {listing([_described(task) for task in able])}"
    if not given:
        kind = "several cells at once" if together else "cells"
        by = dict.fromkeys(name for task in fits for name in sorted(asked_fields(task)))
        give = f"; give {' or '.join(f'{name}=…' for name in by)}" if by else ""
        raise UsageError(f"the model does not generate {kind} without a condition; {has}{give}")
    asked = " and ".join(sorted(given)) + (", several cells at once" if together else "")
    near = [
        task for task in fits if "cell_type" in asked_fields(task) and asked_fields(task) <= {*given}
    ]  # fmt: skip
    if not near or strict:
        raise UsageError(f"the model was not trained to generate by {asked}; {has}")
    more = " and ".join(sorted({*given} - asked_fields(near[0])))
    warn(
        f"the model was not trained to generate by {asked}; it generates by cell_type, and the {more} is only "
        "written beside it in the prompt"
    )
    return near[0]


def in_words(task: Task, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of a task's conditions; what the task has no place for stands beside the cell type.

    Examples
    --------
    >>> from c2s.tasks.single_cell import CONDITIONAL_CELL
    >>> in_words(CONDITIONAL_CELL, {"cell_type": "CD8+ T cell", "tissue": "pancreas"})
    {'cell_type': 'CD8+ T cell in pancreas'}
    """
    fields = asked_fields(task)
    own = {name: text for name, text in texts.items() if name in fields or name == "organism"}
    for name, text in texts.items():
        if name not in own:
            own["cell_type"] += f" in {text}" if name == "tissue" else f" ({name}: {text})"
    return own


def _described(task: Task) -> str:
    by = " and ".join(sorted(asked_fields(task)))
    return ("samples" if task.kind == "multi" else "cells") + (f" by {by}" if by else "") + f" ({task.id})"  # fmt: skip
