"""Studies as recipes: what is asked of which cells, with which methods; read from YAML, packaged ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from c2s.common.config import Config
from c2s.common.errors import UsageError, listing, nearest
from c2s.studies.train import TrainSettings

#: Name of the packaged data set, as a recipe gives it.
PANCREAS = "pancreas"


class StudyColumns(Config):
    """Columns of `obs` that a study reads."""

    cell_type: str = Field("cell_type", description="Column with the cell type.")
    organism: str | None = Field(
        None,
        description="Column with the organism; by default `organism`, else Homo sapiens.",
    )
    donor: str | None = Field(
        None,
        description="Column with the donor; by default `donor` or `donor_id`, where there is one.",
    )


class StudySplit(Config):
    """How cells are dealt to training and test."""

    by: Literal["cell", "donor"] = Field(
        "cell",
        description="'cell': at random within each cell type, as in the paper; 'donor': whole donors.",
    )
    fractions: tuple[float, float] = Field(
        (0.8, 0.2), description="Shares of training and test (SPEC §4.5: 80 and 20 %)."
    )

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float]) -> tuple[float, float]:
        if abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
            raise ValueError("the two shares must be above 0 and sum to 1")
        return fractions


class StudyTraining(TrainSettings):
    """A model that is trained on the training cells of the study; fields as in a training recipe."""

    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training cells that is set aside to choose the sampling temperature.",
    )


class FineTuning(Config):
    """How `finetuned:` baselines are trained. The defaults are near what scGPT and Geneformer published."""

    epochs: int = Field(10, ge=1, description="Times that each training cell is seen.")
    learning_rate: float = Field(1e-4, gt=0, description="The highest of AdamW.")
    batch_size: int = Field(32, ge=1, description="Cells of a step.")
    hidden_layers: int = Field(0, ge=0, description="Of the classifier: 0, or 2 as scGPT has.")


class PublishedNumber(Config):
    """A number that somebody published, on their data; never mixed with numbers of a run."""

    what: str = Field(description="What was measured.")
    method: str = Field(description="Of which model.")
    value: str = Field(description="As it was printed.")
    dataset: str = Field(description="On which cells.")
    source: str = Field(description="Where it was read.")


class Published(Config):
    """The published study that a recipe follows."""

    dataset: str = Field(description="Name of the data set.")
    citation: str = Field(description="Its publication.")
    get: str = Field(description="Where its cells are to be had, and in what form.")
    numbers: list[PublishedNumber] = Field([], description="What was published.")
    missing: list[str] = Field(
        [], description="What this recipe cannot or does not repeat, and why."
    )


class AnnotationSettings(Config):
    """Who names cell types, beside the model."""

    baselines: list[str] = Field(
        ["logistic_regression", "knn", "celltypist"],
        description="`logistic_regression`, `knn`, `celltypist`; `head:ENCODER`, a linear classifier on the places "
        "that an encoder gives; `finetuned:ENCODER`, trained together with the encoder. ENCODER as in `encoders`.",
    )
    fine_tuning: FineTuning = Field(
        default_factory=FineTuning, description="How `finetuned:` baselines are trained."
    )


class GenerationSettings(Config):
    """Who generates cells, beside the model, and how they are compared."""

    generators: list[Literal["independent", "copula", "scvi"]] = Field(
        ["independent", "copula"],
        description="`independent`: each gene on its own; `copula`: margins and pairwise correlations; `scvi`.",
    )
    encoders: list[str] = Field(
        ["pca:20"],
        min_length=1,
        description="Spaces to compare in, one table each: `pca:NUMBER`, `scvi`, `scgpt:FOLDER`, "
        "`geneformer:FOLDER`, `c2s:FOLDER`.",
    )
    top_k: int | None = Field(
        None, ge=1, description="Genes of a sentence; by default the model's, else 100."
    )
    min_cells: int = Field(
        3,
        ge=1,
        description="Without a model: genes that are among the top K of so many training cells are generated.",
    )
    metrics: list[str] | None = Field(
        None, description="Names as `c2s evaluate` takes them; by default its usual choice."
    )
    splits: int = Field(30, ge=2, description="Random halves that each figure is the mean of.")


class Tier(Config):
    """Cells that are held out together and looked at on their own: either `where` or `lowest_depth`."""

    name: str = Field(description="What it is called in tables.")
    where: list[dict[str, str | list[str]]] = Field(
        [],
        description="Held out are cells that match any entry: every column of obs has the value, or one of the "
        "values, that the entry gives.",
    )
    lowest_depth: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Held out is this share of the cells of each type, those with the fewest counts.",
    )
    note: str | None = Field(None, description="What a reader of its numbers must know.")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if bool(self.where) == (self.lowest_depth is not None):
            raise ValueError(
                f"the tier {self.name!r} needs either 'where' or 'lowest_depth', and not both"
            )
        if self.name in ("train", "test"):
            raise ValueError(f"a tier cannot be called {self.name!r}; name it otherwise")
        if any(not entry for entry in self.where):
            raise ValueError(f"the tier {self.name!r}: an entry of 'where' names no column")
        return self


class StudyRecipe(Config):
    """What all studies have in common."""

    title: str = Field(description="Heading of the result.")
    data: str | None = Field(
        None,
        description="Path of a data set with raw counts, or 'pancreas', the packaged one; else give --data.",
    )
    layer: str | None = Field(
        None, description="Where the counts are: 'raw' or a layer, instead of X; 'X' is X."
    )
    columns: StudyColumns = Field(
        default_factory=StudyColumns, description="Columns of obs to read."
    )
    split: StudySplit = Field(default_factory=StudySplit, description="Training and test cells.")
    pseudo_donors: int | None = Field(
        None,
        ge=2,
        description="Where the data have one donor or name none: deal the cells at random to so many.",
    )
    model: str | None = Field(
        None, description="A trained model to measure: folder or hub id. Or give `train`."
    )
    train: StudyTraining | None = Field(
        None, description="Train a model on the training cells, and measure it."
    )
    resamples: int = Field(
        1000, ge=10, description="Bootstrap resamples behind intervals of annotation and embedding."
    )
    seed: int = Field(0, ge=0, description="Decides every draw.")
    published: Published | None = Field(
        None, description="The published study that this follows, and what is missing."
    )

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.model is not None and self.train is not None:
            raise ValueError("'model' and 'train' are both given; give one of them")
        return self


class AnnotationStudy(StudyRecipe, AnnotationSettings):
    """Cell types of test cells: a model beside baselines that are trained on the same cells."""

    kind: Literal["annotation"]


class GenerationStudy(StudyRecipe, GenerationSettings):
    """Generated cells of each type beside real test cells, by a model and by baselines."""

    kind: Literal["generation"]


class EmbeddingStudy(StudyRecipe):
    """How well cells of a type lie together, by encoder."""

    kind: Literal["embedding"]
    encoders: list[str] = Field(
        ["pca:50"],
        description="`pca:NUMBER`, `scvi`, `scgpt:FOLDER`, `geneformer:FOLDER`, `c2s:FOLDER`; the model of the study "
        "is looked at besides.",
    )
    neighbors: int = Field(15, ge=1, description="Cells that vote.")


class OutOfDistributionStudy(StudyRecipe):
    """Whole groups of cells are held out; what is learned on the rest is measured on them and on a test part."""

    kind: Literal["ood"]
    hold_out: list[Tier] = Field(
        min_length=1,
        description="What is held out. All tiers are kept from training; a cell belongs to the first that matches.",
    )
    conditions: list[str] = Field(
        [],
        description="Columns whose combinations are what is generated, as [cell_type, perturbation]; by default the "
        "cell type.",
    )
    control: str | None = Field(
        None, description="COLUMN=VALUE of the untreated cells, as perturbation=control."
    )
    annotation: AnnotationSettings | None = Field(None, description="Measure annotation.")
    generation: GenerationSettings | None = Field(None, description="Measure generation.")

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.annotation is None and self.generation is None:
            raise ValueError("neither 'annotation' nor 'generation' is given; give one or both")
        if self.annotation is not None and len(self.conditions) > 1:
            raise ValueError(
                "'annotation' names cell types only, and 'conditions' names several columns; leave one out"
            )
        names = [tier.name for tier in self.hold_out]
        if len(set(names)) < len(names):
            raise ValueError("two entries of 'hold_out' have the same name")
        return self


AnyStudy = AnnotationStudy | GenerationStudy | EmbeddingStudy | OutOfDistributionStudy

#: The class of a recipe by its `kind`.
KINDS: dict[str, type[AnyStudy]] = {
    "annotation": AnnotationStudy,
    "generation": GenerationStudy,
    "embedding": EmbeddingStudy,
    "ood": OutOfDistributionStudy,
}


class _Kind(Config):
    """The one field that says which class reads the rest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Literal["annotation", "generation", "embedding", "ood"]


def read_study(path: str | Path) -> AnyStudy:
    """Read a recipe of any kind.

    Raises
    ------
    InputError
        The file is missing or not YAML.
    UsageError
        A field is missing, unknown, or has a value that cannot work; the message names it.
    """
    return KINDS[_Kind.read(path).kind].read(path)


def packaged_studies() -> dict[str, AnyStudy]:
    """Return the recipes that come with the package, by name."""
    return {name: packaged_study(name) for name in packaged_names()}


def packaged_names() -> list[str]:
    """Return the names of the packaged recipes, in order."""
    folder = resources.files("c2s.studies").joinpath("recipes")
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    # The demo's recipe is one of training, and scaling studies are run by `c2s scaling`.
    return sorted(
        name.removesuffix(".yaml")
        for name in names
        if name != "demo.yaml" and not name.endswith("-scaling.yaml")
    )


def packaged_text(name: str) -> str:
    """Return a packaged recipe as it is written.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    known = packaged_names()
    if name not in known:
        close = nearest(name, known)
        raise UsageError(
            f"there is no study {name!r} and no such file; the packaged ones are {listing(known, 20)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return resources.files("c2s.studies").joinpath(f"recipes/{name}.yaml").read_text("utf-8")


def packaged_study(name: str) -> AnyStudy:
    """Return a packaged recipe; errors as `packaged_text`."""
    packaged_text(name)
    source = resources.files("c2s.studies").joinpath(f"recipes/{name}.yaml")
    with resources.as_file(source) as path:
        return read_study(path)


def find_study(name_or_path: str) -> tuple[str, AnyStudy]:
    """Return the name and the recipe that a text stands for: a file where there is one, else a packaged recipe.

    Raises
    ------
    UsageError, InputError
        There is neither, or the recipe cannot work.
    """
    path = Path(name_or_path)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path.stem, read_study(path)
    return name_or_path, packaged_study(name_or_path)


def with_changes(recipe: AnyStudy, changes: Mapping[str, Any]) -> AnyStudy:
    """Return a recipe with some fields replaced where the new value is not None, checked again.

    A `model` takes the place of `train`.

    Raises
    ------
    UsageError
        The result cannot work.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    fields = recipe.model_dump(mode="json", exclude_unset=True) | given
    if "model" in given:
        fields.pop("train", None)
    return type(recipe).parse(fields, "the recipe")
