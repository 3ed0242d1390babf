"""The recipe of a corpus: what is read, what is asked of it, and how it is cut."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from c2s.cells.ranked import Ties
from c2s.common.config import Config
from c2s.common.errors import UsageError, listing, nearest
from c2s.common.seeds import generator
from c2s.tasks.pathways import check_tasks
from c2s.tasks.registry import TASKS
from c2s.teachers.config import TeacherConfig
from c2s.tokens.tokenizer import TokenMode

#: What is known of a cell beside its counts. Prompts may name it, and the Parquet files hold it.
FieldName = Literal[
    "organism", "tissue", "cell_type", "donor", "disease", "development_stage", "assay", "study"
]
FIELDS: tuple[FieldName, ...] = (
    "organism", "tissue", "cell_type", "donor", "disease", "development_stage", "assay", "study",
)  # fmt: skip

#: Columns of `obs` that are taken for a field where the recipe names none, the first that is there.
DEFAULT_COLUMNS: dict[FieldName, tuple[str, ...]] = {
    field: (field,) for field in FIELDS
} | {"donor": ("donor_id", "donor")}  # fmt: skip

Range = tuple[int, int]


class SourceRecipe(Config):
    """Files of cells that are read in the same way."""

    data: str | list[str] = Field(
        description="Path or glob of .h5ad and .zarr files, relative to the recipe, or a list of them; 'pancreas' is "
        "the packaged data set."
    )
    kind: Literal["auto", "soma"] = Field(
        "auto",
        description="'soma' for a local TileDB-SOMA experiment such as a copy of the CELLxGENE Census (extra `soma`).",
    )
    layer: str | None = Field(None, description="'raw' or the name of a layer, instead of X.")
    gene_names: str | None = Field(
        None, description="Column of var with gene symbols, where names are Ensembl ids."
    )
    columns: dict[FieldName, str] = Field(
        default_factory=dict,
        description="Column of obs for each field; by default the column of the same name (donor: `donor_id` too).",
    )
    values: dict[FieldName, str] = Field(
        default_factory=dict,
        description="Fields that are the same for all cells of these files, such as organism: Homo sapiens.",
    )
    keep: dict[str, str | bool | list[str]] = Field(
        default_factory=dict,
        description="Columns of obs and the values that a cell must have there, such as is_primary_data: true.",
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        both = sorted(set(self.columns) & set(self.values))
        if both:
            raise ValueError(f"{both[0]!r} is given as a column and as a value; give one")
        return self

    @property
    def patterns(self) -> list[str]:
        """The paths and globs."""
        return [self.data] if isinstance(self.data, str) else list(self.data)


class QualityControl(Config):
    """Which cells and genes are used (SPEC §1; the paper gives no thresholds for the corpus)."""

    min_genes: int = Field(
        200,
        ge=1,
        description="Cells that express fewer genes are dropped; not specified by the paper.",
    )
    max_genes: int | None = Field(
        None, ge=1, description="Cells that express more genes are dropped."
    )
    max_pct_mt: float | None = Field(
        20.0,
        ge=0,
        le=100,
        description="Cells with a larger percentage of mitochondrial counts are dropped, where mitochondrial genes "
        "are recognised; null keeps them, as is right for nuclei. Not specified by the paper.",
    )
    min_cells: int = Field(
        3,
        ge=0,
        description="Genes that fewer of the kept cells of a file express are left out. More than 1 takes a second "
        "pass over the files. Not specified by the paper.",
    )

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.max_genes is not None and self.max_genes < self.min_genes:
            raise ValueError(
                f"max_genes {self.max_genes:,} is below min_genes {self.min_genes:,}, so that no cell is left"
            )
        return self


class TaskRecipe(Config):
    """How often a task is drawn."""

    weight: float | None = Field(
        None,
        gt=0,
        description="Share of the samples, relative to the other tasks that a cell's data allow. By default the square "
        "root of the samples that there are: 1 for a task of single cells, 1/√(mean number of cells) for "
        "one of several (not specified by the paper).",
    )
    genes: Range | None = Field(
        None,
        description="Fewest and most genes of a cell; by default `single_genes` or `multi_genes`.",
    )
    cells: Range | None = Field(
        None, description="Fewest and most cells of a sample; by default `multi_cells`."
    )


class SplitRecipe(Config):
    """Which cells are trained on (SPEC §4.5: donors within a study)."""

    fractions: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1),
        description="Shares of the donors of a study in train, val and test; not specified by the paper.",
    )
    held_out_studies: list[str] = Field(
        default_factory=list,
        description="Studies that go whole into the split `held_out`.",
    )
    few_donors: Literal["cells", "train"] = Field(
        "cells",
        description="What is done with a study of fewer than three donors: 'cells' splits its cells at random (the "
        "manifest says so: its test cells come from donors that were trained on), 'train' trains on all.",
    )

    @model_validator(mode="after")
    def _sum(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-9 or min(self.fractions) < 0:
            raise ValueError("the shares of train, val and test must be ≥ 0 and sum to 1")
        return self


class PathwayRecipe(Config):
    """Pathways that are named before the answer (SPEC §17, row 4): the gene sets most enriched in the cell."""

    gene_sets: str = Field(description="GMT file of gene sets, relative to the recipe.")
    number: int = Field(3, ge=1, description="How many are named; not specified by the paper.")
    min_genes: int = Field(
        5,
        ge=1,
        description="Sets with fewer genes among those of a source are left out; not specified by the paper.",
    )
    tasks: list[str] = Field(
        min_length=1,
        description="Tasks with the pathways before their answer: of one cell, whose answer is a label or a cell.",
    )

    @field_validator("tasks")
    @classmethod
    def _able(cls, tasks: list[str]) -> list[str]:
        check_tasks(tasks)
        return tasks


def _refuse_idle(task: str, spec: TaskRecipe) -> None:
    """Refuse a setting that a task does not have."""
    kind = TASKS[task].kind
    idle = {"multi": [], "single": ["cells"], "gene_set": ["weight", "genes", "cells"]}[kind]
    for name in idle:
        if getattr(spec, name) is not None:
            what = "is of one cell" if kind == "single" else "draws samples_per_gene_set samples"
            raise ValueError(f"tasks.{task}.{name} does nothing, for the task {what}; leave it out")


class CorpusRecipe(Config):
    """A corpus: sentences of cells, and training tokens of many tasks."""

    sources: list[SourceRecipe] = Field(min_length=1, description="Where the cells come from.")
    abstracts: str | None = Field(
        None,
        description='JSONL file of study abstracts: {"study": …, "abstract": …, "paraphrases": […]} a line.',
    )
    paraphrases: int = Field(
        0,
        ge=0,
        description="How many paraphrases of each abstract the teacher is asked for where the file has fewer. The "
        "paper uses 500.",
    )
    teacher: TeacherConfig | None = Field(
        None, description="A language model that writes paraphrases (extra `teacher`)."
    )
    gene_sets: list[str] = Field(
        default_factory=list, description="GMT files, paths or globs relative to the recipe."
    )
    pathways: PathwayRecipe | None = Field(
        None, description="Name the most enriched pathways before the answers of some tasks."
    )
    samples_per_gene_set: int = Field(
        10,
        ge=1,
        description="Samples of each gene-set task for each set; not specified by the paper.",
    )
    quality: QualityControl = Field(
        default_factory=QualityControl, description="Which cells and genes are used."
    )
    tasks: dict[str, TaskRecipe | None] = Field(
        default_factory=lambda: dict.fromkeys(TASKS),
        min_length=1,
        description="Tasks by id (SPEC §4.1), all twelve by default; those that the data do not allow are left out.",
    )
    samples_per_cell: float = Field(
        3.0,
        ge=0,
        description="Samples for each cell, over all tasks; the paper has 150 M of 50 M cells.",
    )
    single_genes: Range = Field(
        (100, 2048), description="Fewest and most genes of a cell in tasks of one cell (SPEC §2)."
    )
    multi_genes: Range = Field(
        (100, 400), description="Fewest and most genes of each cell in tasks of several (SPEC §2)."
    )
    multi_cells: Range = Field(
        (5, 20), description="Fewest and most cells in tasks of several (SPEC §2)."
    )
    sentence_genes: int = Field(
        200, ge=1, description="Genes of the sentences in the Parquet files."
    )
    ties: Ties = Field("seeded", description="How genes of equal value are ordered.")
    prompts: str = Field("c2s", description="Prompt pack: c2s, upstream, or a path.")
    tokenizer: str = Field(
        "small",
        description="Folder or hub id of a tokenizer; 'small' trains one on the prompts and labels of this corpus.",
    )
    tokens: TokenMode = Field(
        "text",
        description="'text': genes in the tokenizer's own pieces; 'genes': one token a gene, added to the tokenizer.",
    )
    small_tokens: int = Field(
        1024,
        ge=300,
        description="Size of the tokenizer that 'small' trains, gene tokens not counted.",
    )
    context: int = Field(
        8192,
        ge=64,
        description="Most tokens of a sample, end-of-text included, and of a packed sequence.",
    )
    split: SplitRecipe = Field(
        default_factory=SplitRecipe, description="Which cells are trained on."
    )
    unit_cells: int = Field(
        8192,
        ge=64,
        description="Cells of a unit of work, and of a shard; samples of several cells are drawn within a unit.",
    )
    engine: Literal["processes", "ray"] = Field(
        "processes",
        description="What maps the units: processes of this machine, or Ray Data (extra `ray`).",
    )
    seed: int = Field(0, ge=0, description="Draws everything.")
    draw: int = Field(
        0,
        ge=0,
        description="Another number draws other ties, samples and wordings of the same cells; the split stays.",
    )

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            close = nearest(unknown[0], TASKS)
            raise ValueError(
                f"tasks: there is no task {unknown[0]!r}"
                + (
                    f"; did you mean {close[0]!r}?"
                    if close
                    else f"; there are: {listing(list(TASKS))}"
                )
            )
        ranges = {"single_genes": self.single_genes, "multi_genes": self.multi_genes}
        ranges["multi_cells"] = self.multi_cells
        for task, spec in self.tasks.items():
            if spec is not None:
                _refuse_idle(task, spec)
                ranges |= {
                    f"tasks.{task}.{name}": value
                    for name, value in (("genes", spec.genes), ("cells", spec.cells))
                    if value is not None
                }
        idle = sorted(set(self.pathways.tasks) - set(self.tasks)) if self.pathways else []
        if idle:
            raise ValueError(f"pathways.tasks: {idle[0]!r} is not among the tasks of the corpus")
        for name, (low, high) in ranges.items():
            if not 1 <= low <= high:
                raise ValueError(f"{name} is {low} to {high}; expected 1 ≤ fewest ≤ most")
        return self

    def genes_of(self, task: str) -> Range:
        """Return the fewest and the most genes of a cell in a task."""
        spec = self.tasks[task]
        if spec is not None and spec.genes is not None:
            return spec.genes
        return self.multi_genes if TASKS[task].kind == "multi" else self.single_genes

    def cells_of(self, task: str) -> Range:
        """Return the fewest and the most cells of a sample of a task."""
        if TASKS[task].kind != "multi":
            return (1, 1)
        spec = self.tasks[task]
        return self.multi_cells if spec is None or spec.cells is None else spec.cells

    def weight_of(self, task: str) -> float:
        """Return the relative share of a task."""
        spec = self.tasks[task]
        if spec is not None and spec.weight is not None:
            return spec.weight
        return float(2 / sum(self.cells_of(task))) ** 0.5

    def task_ids(self, *kinds: str) -> list[str]:
        """Return the tasks of the given kinds, in the order of SPEC §4.1."""
        return [t for t, task in TASKS.items() if t in self.tasks and task.kind in kinds]

    @property
    def most_genes(self) -> int:
        """The most genes of a cell that anything needs."""
        ranges = [self.genes_of(t)[1] for t in self.task_ids("single", "multi")]
        return max([self.sentence_genes, *ranges])

    @property
    def draw_seed(self) -> int:
        """What draws ties and samples: the seed, or for another `draw` one of its own."""
        return (
            int(generator(self.seed, "draw", self.draw).integers(1 << 62))
            if self.draw
            else self.seed
        )

    def deciding(self) -> dict[str, Any]:
        """Return what decides the bytes of the corpus, as plain values: not who did the work."""
        # Corpora that were built before there were such fields stay whole.
        idle = {"draw": not self.draw, "pathways": self.pathways is None}
        unused = {name for name, is_idle in idle.items() if is_idle}
        return self.model_dump(mode="json", exclude={"engine", "teacher"} | unused)

    def digest(self) -> str:
        """Return the SHA-256 of what decides the bytes."""
        text = json.dumps(self.deciding(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def read_recipe(path: str | Path) -> CorpusRecipe:
    """Read a corpus recipe from a YAML file.

    Raises
    ------
    InputError
        The file is missing or not YAML.
    UsageError
        A field is unknown or cannot work; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the recipe, a YAML file")
    recipe = CorpusRecipe.read(path)
    # Not a validator: what a corpus keeps of its recipe does not name the teacher.
    lacking = (
        {"teacher": recipe.teacher, "abstracts": recipe.abstracts} if recipe.paraphrases else {}
    )
    for name, value in lacking.items():
        if value is None:
            raise UsageError(
                f"{path}: paraphrases = {recipe.paraphrases:,} needs the field {name!r}, which is missing"
            )
    return recipe
