"""Tasks about one cell (SPEC §4.1, tasks 2 and 3)."""

from __future__ import annotations

from c2s.common.errors import UsageError, listing
from c2s.tasks.base import Task

CELL_TYPE = Task(
    id="cell_type",
    name="Cell type annotation",
    conditions=("organism",),
    answer="label",
    target="cell_type",
    metric="accuracy",
)
CONDITIONAL_CELL = Task(
    id="cond_cell",
    name="Conditional cell generation",
    conditions=("organism", "cell_type"),
    answer="cell",
    target="cell_sentence",
    metric="overlap",
)

#: All tasks by id.
TASKS: dict[str, Task] = {task.id: task for task in (CELL_TYPE, CONDITIONAL_CELL)}


def get_task(task_id: str) -> Task:
    """Return a task by its id.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if task_id not in TASKS:
        raise UsageError(f"there is no task {task_id!r}; there are: {listing(list(TASKS))}")
    return TASKS[task_id]
