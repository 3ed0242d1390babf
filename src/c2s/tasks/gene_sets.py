"""Tasks about gene sets (SPEC §4.1, tasks 11 and 12; §4.3).

Their wording names no organism: the files that gene sets come in (GMT) name none.
"""

from __future__ import annotations

from c2s.tasks.base import Task

GENE_SET_ENUMERATION = Task(
    id="gene_set_enum",
    name="Gene set enumeration",
    kind="gene_set",
    conditions=("gene_set",),
    answer="genes",
    target="genes",
    metric="overlap",
)
GENE_SET_NAMING = Task(
    id="gene_set_name",
    name="Gene set naming",
    kind="gene_set",
    conditions=(),
    answer="text",
    target="gene_set",
    metric="bertscore",
)
