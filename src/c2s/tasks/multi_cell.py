"""Tasks about several cells of one donor and tissue (SPEC §4.1, tasks 4 to 10)."""

from __future__ import annotations

from c2s.tasks.base import Task

MULTI_CELL_MODELING = Task(
    id="mc_lm",
    name="Multiple cell language modeling",
    kind="multi",
    conditions=("organism",),
    answer="cells",
    target="cells",
    metric="multi_cell_overlap",
)
TISSUE = Task(
    id="tissue",
    name="Tissue sample annotation",
    kind="multi",
    conditions=("organism",),
    answer="label",
    target="tissue",
    metric="accuracy",
)
SAMPLE_CELL_TYPES = Task(
    id="sample_cell_types",
    name="Sample cell type(s) annotation",
    kind="multi",
    conditions=("organism",),
    answer="labels",
    target="cell_types",
    metric="accuracy",
)
CONDITIONAL_SAMPLE_TISSUE = Task(
    id="cond_sample_tissue",
    name="Conditional sample generation (tissue)",
    kind="multi",
    conditions=("organism", "tissue"),
    answer="cells",
    target="cells",
    metric="multi_cell_overlap",
)
CONDITIONAL_SAMPLE_CELL_TYPE = Task(
    id="cond_sample_cell_type",
    name="Conditional sample generation (cell type)",
    kind="multi",
    conditions=("organism", "cell_types"),
    answer="cells",
    target="cells",
    metric="multi_cell_overlap",
)
CONDITIONAL_SAMPLE_ABSTRACT = Task(
    id="cond_sample_abstract",
    name="Conditional sample generation (abstract)",
    kind="multi",
    conditions=("organism", "abstract"),
    answer="cells",
    target="cells",
    metric="multi_cell_overlap",
)
INTERPRETATION = Task(
    id="nl_interpretation",
    name="Natural language interpretation",
    kind="multi",
    conditions=("organism",),
    answer="text",
    target="abstract",
    metric="bertscore",
)
