"""What a recipe says of each reward. Only configuration here; `opening.py` binds it to data."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from c2s.common.config import Config

#: What of the answers a reward looks at; a task that does not give it is given no reward.
Reads = Literal["cells", "texts", "answers"]


class RewardRecipe(Config):
    """What all rewards have."""

    reads: ClassVar[Reads] = "cells"
    #: Whether it is measured of a group and shared out to its answers.
    of_groups: ClassVar[bool] = False

    name: str = Field(description="Which reward; see the registry.")
    weight: float = Field(
        1.0,
        allow_inf_nan=False,
        description="By which the reward is multiplied before rewards are added; 0 measures it only.",
    )

    @property
    def in_space(self) -> bool:
        """Whether cells are compared in the space of the run."""
        return False


class ProgrammeRecipe(Config):
    """A gene programme: genes by name, or sets of a GMT file, united."""

    genes: list[str] | None = Field(None, description="Genes of the programme, by symbol.")
    gene_sets: str | None = Field(
        None, description="GMT file whose 'sets' make the programme, instead of 'genes'."
    )
    sets: list[str] = Field(
        default_factory=list, description="Names of sets in 'gene_sets'; their genes are united."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.genes is not None and self.gene_sets is not None:
            raise ValueError(
                "give either 'genes', or 'gene_sets' with 'sets'; both would be two programmes"
            )
        if (self.gene_sets is not None) != bool(self.sets):
            raise ValueError(
                "'gene_sets', a GMT file, and 'sets', the names of some of its sets, go together"
            )
        return self

    @property
    def is_given(self) -> bool:
        """Whether there is a programme at all."""
        return self.genes is not None or self.gene_sets is not None


class SpaceRecipe(RewardRecipe, ProgrammeRecipe):
    """A reward that is measured in an encoder's space; genes outside a programme, if one is given, are zeroed."""

    encoder: str | None = Field(
        None,
        description="Space of the comparison: pca, pca:NUMBER, pca:FILE.npz, scvi:FOLDER, scgpt:FOLDER, "
        "geneformer:FOLDER or c2s:FOLDER; by default that of the run.",
    )

    @property
    def in_space(self) -> bool:
        """Whether cells are compared in the space of the run."""
        return self.encoder is None


class KendallTau(RewardRecipe, ProgrammeRecipe):
    """Kendall's tau-b of a gene programme, beside the true cell of the prompt (SPEC §7.5)."""

    name: Literal["kendall_tau"] = Field("kendall_tau", description="This reward.")
    truth: Literal["expression", "rank"] = Field(
        "expression",
        description="What the true cell's genes are ordered by: 'expression', with ties at 0, or 'rank', minus the "
        "rank in its sentence.",
    )

    @model_validator(mode="after")
    def _some_programme(self) -> Self:
        if not self.is_given:
            raise ValueError("kendall_tau needs a programme: 'genes', or 'gene_sets' with 'sets'")
        return self


class NegativeMSE(SpaceRecipe):
    """Minus the mean squared error against a randomly paired real cell of the condition (SPEC §7.3)."""

    name: Literal["negative_mse"] = Field("negative_mse", description="This reward.")


class GroupRecipe(SpaceRecipe):
    """A reward that measures a group against real cells of its condition, and shares that out to its cells."""

    of_groups: ClassVar[bool] = True

    real_cells: int | None = Field(
        None,
        ge=2,
        description="Real cells of the condition that a group is compared with, drawn anew for each group; by "
        "default all.",
    )


class EnergyDistance(GroupRecipe):
    """Each cell's share of minus the energy distance of its group from real cells of the condition."""

    name: Literal["energy_distance"] = Field("energy_distance", description="This reward.")


class ScFID(GroupRecipe):
    """Each cell's share of minus the scFID of its group from real cells of the condition."""

    name: Literal["scfid"] = Field("scfid", description="This reward.")


class Diversity(SpaceRecipe):
    """Each cell's share of the mean pairwise distance within its group."""

    of_groups: ClassVar[bool] = True

    name: Literal["diversity"] = Field("diversity", description="This reward.")
    distance: Literal["sentences", "encoder"] = Field(
        "sentences",
        description="Between two cells: 'sentences', 1 less the share of genes that both sentences have; or 'encoder', "
        "Euclidean in the encoder's space.",
    )

    @model_validator(mode="after")
    def _space_where_used(self) -> Self:
        if self.distance == "sentences" and (self.encoder is not None or self.is_given):
            raise ValueError("'encoder' and a programme need distance: encoder")
        return self

    @property
    def in_space(self) -> bool:
        """Whether cells are compared in the space of the run."""
        return self.distance == "encoder" and super().in_space


class BertScore(RewardRecipe):
    """F1 of BERTScore against the true text (SPEC §7.4)."""

    reads: ClassVar[Reads] = "texts"

    name: Literal["bertscore"] = Field("bertscore", description="This reward.")
    folder: str = Field(description="Hugging Face folder of a BERT, such as dmis-lab/biobert-v1.1.")
    layer: int = Field(
        9,
        ge=1,
        description="Layer whose output is compared, from 1; 9 is meant for BioBERT (not specified by the paper).",
    )


class Validity(RewardRecipe):
    """1 for a cell of exactly the asked number of known genes, none twice, else 0."""

    name: Literal["validity"] = Field("validity", description="This reward.")


class Length(RewardRecipe):
    """Minus the distance of the number of words from that of the genes asked for, as a share of it."""

    name: Literal["length"] = Field("length", description="This reward.")


class Repetition(RewardRecipe):
    """Minus the share of words that name a gene again."""

    name: Literal["repetition"] = Field("repetition", description="This reward.")


class UnknownGenes(RewardRecipe):
    """Minus the share of words that are no gene."""

    name: Literal["unknown_genes"] = Field("unknown_genes", description="This reward.")


class Function(RewardRecipe):
    """A function of your own: from `c2s.training.rewards.Rollouts` to a number an answer."""

    reads: ClassVar[Reads] = "answers"

    name: Literal["function"] = Field("function", description="This reward.")
    file: str = Field(description="Python file, relative to the recipe; it is run.")
    function: str = Field(description="Name of the function in it.")


class Match(RewardRecipe):
    """1 for an answer that is the true label, else 0."""

    reads: ClassVar[Reads] = "texts"

    name: Literal["match"] = Field("match", description="This reward.")
