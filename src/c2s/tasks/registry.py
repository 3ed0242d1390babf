"""All tasks of SPEC §4.1 by their ids."""

from __future__ import annotations

from c2s.common.errors import UsageError, listing, nearest
from c2s.tasks import gene_sets, multi_cell, single_cell
from c2s.tasks.base import Task

#: All tasks by id, in the order of SPEC §4.1.
TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        single_cell.SINGLE_CELL_MODELING,
        single_cell.CELL_TYPE,
        single_cell.CONDITIONAL_CELL,
        multi_cell.MULTI_CELL_MODELING,
        multi_cell.TISSUE,
        multi_cell.SAMPLE_CELL_TYPES,
        multi_cell.CONDITIONAL_SAMPLE_TISSUE,
        multi_cell.CONDITIONAL_SAMPLE_CELL_TYPE,
        multi_cell.CONDITIONAL_SAMPLE_ABSTRACT,
        multi_cell.INTERPRETATION,
        gene_sets.GENE_SET_ENUMERATION,
        gene_sets.GENE_SET_NAMING,
    )
}


def get_task(task_id: str) -> Task:
    """Return a task by its id.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if task_id not in TASKS:
        close = nearest(task_id, TASKS)
        raise UsageError(
            f"there is no task {task_id!r}; there are: {listing(list(TASKS))}"
            + (f" (nearest: {listing(close)})" if close else "")
        )
    return TASKS[task_id]
