"""The card of a model, `c2s.json`: everything that is known of it beside its weights."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.config import Config, explain
from c2s.common.errors import InputError, UsageError, listing
from c2s.models.adapters import AdapterBase
from c2s.models.attention import PromptAttention
from c2s.models.released import Released, find_profile, load_wording, profiles
from c2s.tasks.pathways import PathwayLine
from c2s.tokens.tokenizer import TokenMode

C2S_JSON = "c2s.json"


class ModelCard(Config):
    """What `c2s.json` says: everything needed to ask the model in the way it was trained."""

    format: Literal[1] = Field(default=1, description="Version of this file's form.")
    vocabulary: list[str] = Field(
        description="Gene words the model knows, in the order of its gene columns; a released checkpoint may have "
        "none and takes those of the data."
    )
    symbols: list[str] = Field(
        default_factory=list,
        description="The genes in their original case, where that was not upper case; else empty.",
    )
    mode: TokenMode = Field(description="How genes become tokens: 'text' or 'genes'.")
    top_k: int = Field(ge=1, description="Genes of a cell that the model was trained on.")
    preprocessing: dict[str, Any] = Field(
        default_factory=dict, description="Normalisation that the inverse model belongs to."
    )
    prompts: str = Field(default="c2s", description="Prompt pack that the model was trained with.")
    wording: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="The texts of a prompt pack that is the user's own file."
    )
    tasks: list[str] = Field(
        default_factory=list, description="Ids of the tasks that it was trained on."
    )
    conditions: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Values of each condition or label that it has seen, e.g. of cell_type.",
    )
    gene_frequencies: list[int] = Field(
        default_factory=list,
        description="How many training cells have each gene among their top K, in the order of the vocabulary; "
        "empty where that was not counted. Generation guesses from it; it decides nothing.",
    )
    inverse: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Line from rank to expression, by data set."
    )
    generation: dict[str, float] = Field(
        default_factory=dict,
        description="Sampling defaults, chosen on validation cells: temperature, top_p.",
    )
    calibration: dict[str, float] = Field(
        default_factory=dict,
        description="Of annotation, fitted on labelled cells: temperature, and errors before and after.",
    )
    attention: PromptAttention = Field(
        default_factory=PromptAttention,
        description="What tokens of a prompt see; decoding reads prompts as training did.",
    )
    pathways: PathwayLine | None = Field(
        default=None,
        description="Pathways that are named before the answers of some tasks; decoding writes them first.",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Where the weights come from."
    )
    released: Released | None = Field(
        default=None, description="Of a released checkpoint: how it wants to be asked."
    )
    adapter: AdapterBase | None = Field(
        default=None, description="Of a folder with an adapter instead of weights: its base."
    )
    versions: dict[str, str] = Field(
        default_factory=dict, description="Library versions that wrote the model."
    )

    @field_validator("inverse")
    @classmethod
    def _inverse_can_be_restored(
        cls, inverse: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        for dataset, values in inverse.items():
            try:
                RankExpressionModel.from_dict(values)
            except TypeError as error:
                raise ValueError(f"{dataset!r} is no line from rank to expression") from error
        return inverse

    @field_validator("gene_frequencies")
    @classmethod
    def _one_frequency_a_gene(cls, frequencies: list[int], info: ValidationInfo) -> list[int]:
        n_genes = len(info.data.get("vocabulary", []))
        if frequencies and (len(frequencies) != n_genes or min(frequencies) < 0):
            raise ValueError(f"there must be {n_genes:,} numbers, none below 0")
        return frequencies

    @field_validator("calibration")
    @classmethod
    def _temperature_is_possible(cls, calibration: dict[str, float]) -> dict[str, float]:
        if not 0 < calibration.get("temperature", 1.0) < float("inf"):
            raise ValueError("the temperature must be above 0")
        return calibration

    def restored_inverse(
        self, vocabulary: GeneVocabulary, dataset: str | None = None
    ) -> RankExpressionModel:
        """Return the line of a data set, by default the first.

        Raises
        ------
        InputError
            The card has none.
        """
        if not self.inverse:
            raise InputError(
                "the model directory has no line from rank to expression ('inverse' in c2s.json)"
            )
        if dataset is not None and dataset not in self.inverse:
            raise UsageError(
                f"the model has no inverse for {dataset!r}; it has: {listing(list(self.inverse))}"
            )
        return RankExpressionModel.from_dict(
            self.inverse[dataset or next(iter(self.inverse))], vocabulary
        )


def library_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("c2s-toolkit", "torch", "transformers", "tokenizers", "numpy", "numba", "anndata")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


def card_of(
    folder: Path, source: str, profile: str | None = None, prompts: str | None = None
) -> ModelCard:
    """Return what `c2s.json` says, or what is known of the family of a released checkpoint.

    Parameters
    ----------
    folder
        Of the model.
    source
        What the user called it: its path or hub id.
    profile, prompts
        As in `c2s.load_model`.

    Raises
    ------
    InputError
        There is neither, or `c2s.json` is broken.
    UsageError
        `c2s.json` says itself what `profile` or `prompts` say; the profile is unknown; the wording is missing.
    """
    if (folder / C2S_JSON).is_file():
        if profile is not None or prompts is not None:
            raise UsageError(
                f"{source}: {C2S_JSON} says how the model is asked; leave out {'prompts' if prompts else 'profile'}=…"
            )
        return _read_card(folder)
    name = find_profile(folder, source, profile)
    if name is not None:
        return _released_card(name, prompts)
    if not (folder / "config.json").is_file():
        within = (folder / "model" / C2S_JSON).is_file()  # the folder of a run
        advice = (
            f"did you mean {folder / 'model'}?" if within else "use a folder written by Model.save"
        )
        raise InputError(f"{folder}: no model: {C2S_JSON} is missing; {advice}")
    raise InputError(
        f"{folder}: a Hugging Face model without a gene vocabulary: {C2S_JSON} is missing; use a folder written by "
        f"Model.save, name the family of a released checkpoint with profile=… ({listing(list(profiles()), 20)}), "
        "or give it genes with c2s.attach"
    )


def _released_card(name: str, prompts: str | None) -> ModelCard:
    """Return the card of a released checkpoint; it knows no gene yet, and remembers no cell type."""
    profile, pack = profiles()[name], load_wording(name, prompts)
    return ModelCard(
        vocabulary=[],
        mode="text",
        top_k=profile.top_k,
        prompts=pack.name,
        wording={} if pack.name == "upstream" else pack.texts(),
        tasks=[task for task in profile.tasks if task in pack.tasks],
        conditions={"organism": list(profile.organisms)},
        generation=dict(profile.generation),
        released=profile.manner(name),
    )


def _read_card(folder: Path) -> ModelCard:
    path = folder / C2S_JSON
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or not (
            content.get("vocabulary") or content.get("released")
        ):
            raise InputError(
                f"{path}: the gene vocabulary is missing, so genes cannot be told from words"
            )
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, ModelCard)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
