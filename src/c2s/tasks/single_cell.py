"""Tasks about one cell (SPEC §4.1, tasks 1 to 3)."""

from __future__ import annotations

from c2s.tasks.base import Task

SINGLE_CELL_MODELING = Task(
    id="sc_lm",
    name="Single cell language modeling",
    kind="single",
    conditions=("organism",),
    answer="cell",
    target="cell_sentence",
    metric="overlap",
)
CELL_TYPE = Task(
    id="cell_type",
    name="Cell type annotation",
    kind="single",
    conditions=("organism",),
    answer="label",
    target="cell_type",
    metric="accuracy",
)
CONDITIONAL_CELL = Task(
    id="cond_cell",
    name="Conditional cell generation",
    kind="single",
    conditions=("organism", "cell_type"),
    answer="cell",
    target="cell_sentence",
    metric="overlap",
)
