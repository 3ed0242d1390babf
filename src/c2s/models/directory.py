"""The model directory: what `save_pretrained` writes plus `c2s.json`, and the `Model` it holds."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.config import Config, explain
from c2s.common.errors import (
    InputError,
    UsageError,
    listing,
    missing_extra,
    nearest,
    warn,
)
from c2s.common.files import atomic_directory, atomic_file
from c2s.common.transformers_log import quiet_transformers
from c2s.models.presets import get_preset
from c2s.models.released import Released, find_profile, load_wording, profiles
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tokens.tokenizer import CellTokenizer, Segment, TokenMode, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

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
    training: dict[str, Any] = Field(
        default_factory=dict, description="Where the weights come from."
    )
    released: Released | None = Field(
        default=None, description="Of a released checkpoint: how it wants to be asked."
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


class WeightFiles(NamedTuple):
    """Where the weights of a model lie that was opened without them, and how they are wanted.

    Attributes
    ----------
    folder
        With `config.json` and safetensors.
    dtype
        As in `load_model`.
    """

    folder: Path
    dtype: str | None


class Model:
    """A language model that reads and writes cells: network, tokenizer and card.

    Parameters
    ----------
    network
        None for a model that was opened without its weights.
    tokenizer, card, source
        As the attributes.
    files
        Where the weights of a model without a network lie.

    Attributes
    ----------
    tokenizer : CellTokenizer
    card : ModelCard
    source : str
        Where it was loaded from, for the record.
    """

    def __init__(
        self,
        network: PreTrainedModel | None,
        tokenizer: CellTokenizer,
        card: ModelCard,
        source: str = "",
        files: WeightFiles | None = None,
    ) -> None:
        self._network = network
        self.tokenizer = tokenizer
        self.card = card
        self.source = source
        self.files = files

    @property
    def network(self) -> PreTrainedModel:
        """The network.

        Raises
        ------
        UsageError
            The model was opened without its weights.
        """
        if self._network is None:
            raise UsageError(
                f"{self.source}: the model was opened without its weights, for an engine that reads them itself;"
                " open it with load_model(…, weights=True)"
            )
        return self._network

    @property
    def has_network(self) -> bool:
        """Whether the network is in memory."""
        return self._network is not None

    @property
    def config(self) -> Any:
        """The shape of the network, as transformers describes it; also of a model opened without its weights."""
        if self._network is not None or self.files is None:
            return self.network.config
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.files.folder)

    @property
    def vocabulary(self) -> GeneVocabulary:
        """The genes that the model knows."""
        return self.tokenizer.vocabulary

    @property
    def any_gene(self) -> bool:
        """Whether it has no gene vocabulary of its own yet, as released checkpoints, and takes any symbols."""
        return self.card.released is not None and not len(self.vocabulary)

    def with_genes(self, genes: GeneVocabulary | Sequence[str]) -> Model:
        """Return the same network with a gene vocabulary, for a released checkpoint; the weights are shared.

        Parameters
        ----------
        genes
            What it may read and write: the genes of the data, or a list of names. One that is listed twice counts once.

        Raises
        ------
        UsageError
            The model has a vocabulary of its own, or there are no genes.
        """
        if not self.any_gene:
            raise UsageError(
                f"the model has a vocabulary of its own ({len(self.vocabulary):,} genes); others cannot be given"
            )
        if isinstance(genes, str):
            raise UsageError("genes must be a list of names")
        if not isinstance(genes, GeneVocabulary):
            once = {str(gene).upper(): str(gene) for gene in genes}
            genes = GeneVocabulary(list(once.values()))
        if not len(genes):
            raise UsageError("genes: found none, expected at least one")
        card = self.card.model_copy(
            update={"vocabulary": list(genes.words), "symbols": list(genes.symbols)}
        )
        tokenizer = CellTokenizer(self.tokenizer.backend, genes, card.mode)
        return Model(self._network, tokenizer, card, self.source, self.files)

    def encode_prompt(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return the token ids of a prompt, as the model was trained to see them. int32, shape (n_tokens,).

        Released Gemma models read a beginning-of-text token first; answers never begin with one.
        """
        import numpy as np

        ids = self.tokenizer.encode(segments)
        return np.concatenate([self.begin_ids, ids]).astype(np.int32) if self.begin_ids else ids

    @property
    def begin_ids(self) -> list[int]:
        """Token ids before every prompt: the beginning-of-text token of released Gemma models, else nothing."""
        released = self.card.released
        return [self.tokenizer.backend.bos_token_id] if released and released.begin else []

    @property
    def end_ids(self) -> list[int]:
        """Token ids behind the wording of an answer that is a label: the end-of-text token, or nothing."""
        released = self.card.released
        return [] if released and released.end == "response" else [self.tokenizer.eos_id]

    def stated_genes(self, shown: int, asked: int | None = None) -> int:
        """Return what a prompt calls the number of genes of a cell.

        Parameters
        ----------
        shown
            How many stand in the prompt.
        asked
            K; by default the model's own. Released checkpoints were told K even of cells that have fewer genes.
        """
        if self.card.released is None or self.card.released.num_genes == "shown":
            return shown
        return self.card.top_k if asked is None else asked

    @property
    def prompts(self) -> PromptPack:
        """The wording that it was trained with."""
        if self.card.wording:
            return PromptPack.restore(self.card.prompts, self.card.wording)
        return load_prompts(self.card.prompts)

    @property
    def inverse(self) -> RankExpressionModel:
        """The line from rank to expression of the first data set it was trained on."""
        return self.card.restored_inverse(self.vocabulary)

    @property
    def n_parameters(self) -> int:
        """Number of weights, tied ones once."""
        return sum(p.numel() for p in self.network.parameters())

    def __repr__(self) -> str:
        genes = "any" if self.any_gene else f"{len(self.vocabulary):,}"
        weights = f"{self.n_parameters:,} parameters" if self.has_network else "without weights"
        return (
            f"Model({self.source or self.config.model_type}: {weights}, "
            f"{genes} genes, top {self.card.top_k}, tasks {listing(self.card.tasks) or 'none'})"
        )

    def known(self, condition: str) -> list[str]:
        """Return the values of a condition or label that the model has seen in training."""
        return list(self.card.conditions.get(condition, []))

    def spelling(self, condition: str, value: str) -> str:
        """Return `value` as the model knows it, or as it is; case and `_`, `-` or space do not matter."""
        known = self.known(condition)
        if value in known:  # as it is, where two known values differ in nothing but case or dashes
            return value
        return {_folded(k): k for k in known}.get(_folded(value), value)

    def check_condition(self, condition: str, value: str, *, strict: bool = False) -> str:
        """Return `value` as the model knows it; case and `_`, `-` or space do not matter.

        A value that the model never saw is answered with a warning that names what it knows, and returned
        as it is. A released checkpoint keeps no list of cell types, and takes any of them as it is.

        Raises
        ------
        UsageError
            `strict`, and the model never saw the value or keeps no list.
        """
        known = self.known(condition)
        if not known and self.card.released is not None:
            if strict:
                raise UsageError(
                    f"a released checkpoint keeps no list of each {condition} that it has seen; leave out strict"
                )
            return value
        match = self.spelling(condition, value)
        if match in known:
            return match
        close = nearest(value, known)
        message = (
            f"the model never saw {condition} {value!r}; it knows: {listing(known, 20) or 'none'}"
            + (f" (nearest: {listing(close)})" if close else "")
        )
        if strict:
            raise UsageError(message)
        warn(message)
        return value

    def save(
        self, path: str | os.PathLike[str], weights: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write the model directory; an existing one is replaced when the new one is complete.

        Parameters
        ----------
        path
            The folder.
        weights
            Instead of the network's own, which may be divided among processes.

        Raises
        ------
        UsageError
            There is a file, or a folder that holds something else than a model.
        C2SError
            The place cannot be written; what was there is left as it was.
        """
        _refuse_to_replace(Path(path))
        card = self.card.model_copy(update={"versions": library_versions()})
        with atomic_directory(path) as folder, quiet_transformers():
            self.network.save_pretrained(folder, state_dict=weights)
            self.tokenizer.save(folder)
            (folder / C2S_JSON).write_text(json.dumps(card.model_dump(), indent=1) + "\n", "utf-8")

    def save_card(self) -> None:
        """Write what the card says now to `c2s.json` of the folder that the model was loaded from; weights stay.

        Raises
        ------
        UsageError
            It was not loaded from a folder.
        C2SError
            The file cannot be written; the old one is left as it was.
        """
        path = Path(self.source) / C2S_JSON
        if not self.source or not path.is_file():
            raise UsageError(
                f"the model ({self.source or 'made here'}) is not in a folder of its own; save it whole, in a new place"
            )
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(self.card.model_dump(), indent=1) + "\n", "utf-8")


def _refuse_to_replace(path: Path) -> None:
    """Refuse a place whose content saving a model would delete."""
    if path.is_dir() and not (path / C2S_JSON).is_file() and any(path.iterdir()):
        raise UsageError(
            f"{path}: holds other files, which saving a model there would delete; give another folder"
        )
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, and a model is saved as a folder; give another place")


def _folded(text: str) -> str:
    return "".join(" " if c in "_-" else c for c in text.casefold()).strip()


def library_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("c2s-toolkit", "torch", "transformers", "tokenizers", "numpy", "numba", "anndata")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


def load_model(
    path_or_id: str | os.PathLike[str],
    *,
    genes: GeneVocabulary | Sequence[str] | None = None,
    profile: str | None = None,
    prompts: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantize: str | None = None,
    weights: bool = True,
) -> Model:
    """Load a model directory, or a released checkpoint of a known family.

    Parameters
    ----------
    path_or_id
        A folder with `c2s.json`, or the hub id of one. A released checkpoint of a known family (SPEC §18) has none,
        and is known by its name or its model card. Any other Hugging Face folder has no gene vocabulary; give it one
        with `attach` first.
    genes
        Of a released checkpoint: the genes that it may read and write. By default each verb takes those of the data
        that it is given.
    profile
        The family of a checkpoint that cannot be told: a name in `c2s.models.released.profiles()`.
    prompts
        The wording of a released checkpoint, as a folder with a TOML file for each task; by default it is read from
        the `cell2sentence` package that you have installed.
    dtype
        "float32", "bfloat16" or "float16"; by default as saved.
    device
        "cpu", "cuda", "mps"; by default "cuda" where there is a GPU, else "cpu".
    device_map
        For models too large for one GPU: "auto" spreads the layers over all GPUs, then main memory; or a device, or a
        table from parts of the network to devices, as transformers takes it. Instead of `device`.
    quantize
        "4bit" keeps the weights of linear layers in 4 bits (NF4; extra `quant`): a quarter of the memory of
        bfloat16, a little less exact, and such a model can be asked but not trained or saved. None leaves them as
        they are.
    weights
        False leaves the weights where they are, for an engine that reads them itself, such as vLLM.

    Raises
    ------
    InputError
        There is no model there, or its c2s.json, vocabulary, tokenizer or weights are missing or broken.
    UsageError
        The profile is unknown, the wording is missing, or the model has a c2s.json that says all this itself; an
        option is not possible here, or its extra is not installed.

    Examples
    --------
    >>> model = c2s.load_model("vandijklab/C2S-Pythia-410m-cell-type-prediction")  # doctest: +SKIP
    >>> c2s.tl.annotate(adata, model, ["T cell", "B cell"])  # doctest: +SKIP
    """
    placement = _placement(device, device_map, quantize)
    source = str(path_or_id)
    folder = resolve_folder(path_or_id)
    card = _card_of(folder, source, profile, prompts)
    backend = load_tokenizer(folder)
    if card.released is not None and card.released.begin and backend.bos_token_id is None:
        raise InputError(
            f"{folder}: the tokenizer lacks the beginning-of-text token that prompts of {card.released.profile} need"
        )
    try:
        tokenizer = CellTokenizer(
            backend, GeneVocabulary.from_words(card.vocabulary, card.symbols or None), card.mode
        )
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    if not weights:
        files = WeightFiles(folder, _known_dtype(dtype))
        model = Model(None, tokenizer, card, source, files)
        return model if genes is None else model.with_genes(genes)
    network = load_network(folder, dtype=dtype, device_map=placement, quantize=quantize)
    rows = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer.backend) > rows:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer.backend):,} tokens, the weights only {rows:,}"
        )
    if placement is None:
        network.to(resolve_device(device))
    network.eval()
    model = Model(network, tokenizer, card, source)
    return model if genes is None else model.with_genes(genes)


def _placement(
    device: str | None, device_map: str | Mapping[str, Any] | None, quantize: str | None
) -> str | dict[str, Any] | None:
    """Return the map of devices that the weights are loaded to, or None to move them when they are loaded.

    Raises
    ------
    UsageError
        Both a device and a map are given.
    """
    if device_map is None:
        # Weights in 4 bits are made on the device itself.
        return None if quantize is None else {"": resolve_device(device)}
    if device is not None:
        raise UsageError(
            f"device={device!r} and device_map={device_map!r} say the same twice; give one of them"
        )
    return device_map if isinstance(device_map, str) else dict(device_map)


def _quantization(quantize: str | None, dtype: str | None) -> Any:
    """Return the configuration of quantised weights, or None.

    Raises
    ------
    UsageError
        It is unknown, or its library is not installed.
    """
    if quantize is None:
        return None
    if quantize != "4bit":
        raise UsageError(f"quantize={quantize!r} is unknown; use '4bit', or leave it out")
    if find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes, which keeps weights in 4 bits,", "quant")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype or "bfloat16",
    )


def attach(
    path_or_id: str | os.PathLike[str],
    vocabulary: GeneVocabulary,
    *,
    top_k: int = 200,
    prompts: str = "c2s",
    tasks: Sequence[str] = ("cell_type", "cond_cell"),
    conditions: Mapping[str, Sequence[str]] | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Model:
    """Take any Hugging Face causal language model as it is and give it a gene vocabulary ("text" mode).

    Parameters
    ----------
    path_or_id
        A folder or a hub id.
    vocabulary
        The genes that it may read and write.
    top_k, prompts
        Genes of a cell, and the wording that it was trained with: "upstream" for released checkpoints.
    tasks
        What it was trained on; it is taken at your word.
    conditions
        What it has seen, such as `{"cell_type": [...], "organism": ["Homo sapiens"]}`; labels that are not
        listed here must be given to the verbs.
    dtype, device
        As in `load_model`.

    Raises
    ------
    InputError
        There is no model or tokenizer there.
    """
    tokenizer = CellTokenizer(load_tokenizer(path_or_id), vocabulary, "text")
    card = ModelCard(
        vocabulary=list(vocabulary.words),
        symbols=list(vocabulary.symbols),
        mode="text",
        top_k=top_k,
        prompts=prompts,
        tasks=list(tasks),
        conditions={k: list(v) for k, v in (conditions or {"organism": ["Homo sapiens"]}).items()},
    )
    network = load_network(path_or_id, dtype=dtype).to(resolve_device(device)).eval()
    return Model(network, tokenizer, card, str(path_or_id))


def new_model(
    preset: str, tokenizer: CellTokenizer, card: ModelCard, seed: int, *, shape_only: bool = False
) -> Model:
    """Make a model of a preset's shape from random weights, the same for the same seed.

    `shape_only` makes it without memory for the weights, to count them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = get_preset(preset).config(len(tokenizer.backend))
    config.bos_token_id = config.eos_token_id = tokenizer.eos_id
    config.pad_token_id = tokenizer.pad_id
    with torch.random.fork_rng(devices=[]), torch.device("meta" if shape_only else "cpu"):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
    return Model(network, tokenizer, card, f"preset {preset}")


def load_network(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantize: str | None = None,
    config: PretrainedConfig | None = None,
) -> PreTrainedModel:
    """Load the weights of a causal language model; safetensors only, no code from the folder.

    Parameters
    ----------
    path_or_id
        A folder or a hub id.
    dtype, device_map, quantize
        As in `load_model`; without a map they are loaded to main memory.
    config
        Instead of the one beside the weights, such as one with a longer context.

    Raises
    ------
    InputError
        There are none, they cannot be read, or they do not fit the configuration beside them.
    UsageError
        `dtype` or `quantize` is none of those that `load_model` names, or an extra is missing.
    """
    dtype = _known_dtype(dtype)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    placed = {
        "device_map": device_map,
        "quantization_config": _quantization(quantize, dtype),
        "config": config,
    }
    try:
        with quiet_transformers():
            network, info = AutoModelForCausalLM.from_pretrained(
                path_or_id,
                dtype=getattr(torch, dtype) if dtype else "auto",
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # found below, by name
                output_loading_info=True,
                **{name: value for name, value in placed.items() if value is not None},
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path_or_id}: the weights cannot be read ({reason})") from error
    # transformers would fill these with random numbers.
    unfit = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if unfit:
        raise InputError(
            f"{path_or_id}: {len(unfit):,} weights are missing or of another shape than config.json says "
            f"({listing(unfit, 2)}); the folder is damaged, save or download it anew"
        )
    return network


def _known_dtype(dtype: str | None) -> str | None:
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise UsageError(f"dtype={dtype!r} is unknown; use 'float32', 'bfloat16' or 'float16'")
    return dtype


def resolve_device(device: str | None = None) -> str:
    """Return the device asked for, else "cuda" where there is a GPU, else "cpu".

    Raises
    ------
    UsageError
        The device is unknown or not there.
    """
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device is None:
        return "cuda" if there["cuda"] else "cpu"
    kind, _, number = device.partition(":")
    if kind not in there or (number and not number.isdecimal()):
        raise UsageError(f"device={device!r} is unknown; use 'cpu', 'cuda' or 'mps'")
    if not there[kind]:
        raise UsageError(f"device={device!r} is not there on this machine; use 'cpu'")
    if int(number or 0) >= (n_devices := torch.cuda.device_count() if kind == "cuda" else 1):
        raise UsageError(
            f"device={device!r} is not there on this machine; the last is '{kind}:{n_devices - 1}'"
        )
    return device


def model_folder() -> Path:
    """Return where `c2s demo` leaves a model for commands that are given none, in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("c2s-toolkit") / "model"


def leave_for_commands(folder: Path) -> Path:
    """Copy a model directory to where commands look when no model is named; return that place."""
    place = model_folder()
    with atomic_directory(place) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return place


def find_model(named: str | os.PathLike[str] | None = None) -> str:
    """Return the model to use: the one named, else `C2S_MODEL`, else the one that `c2s demo` left.

    Raises
    ------
    UsageError
        There is none.
    """
    choice = str(named) if named is not None else os.environ.get("C2S_MODEL", "")
    if choice:
        return choice
    if (model_folder() / C2S_JSON).is_file():
        return str(model_folder())
    raise UsageError(
        "there is no model to ask; run `c2s demo` to make one, give --model FOLDER, or set C2S_MODEL"
    )


def _card_of(
    folder: Path, source: str, profile: str | None = None, prompts: str | None = None
) -> ModelCard:
    """Return what `c2s.json` says, or what is known of the family of a released checkpoint."""
    if (folder / C2S_JSON).is_file():
        if profile is not None or prompts is not None:
            raise UsageError(
                f"{source}: {C2S_JSON} says how the model is asked; leave out {'prompts' if prompts else 'profile'}"
            )
        return _read_card(folder)
    name = find_profile(folder, source, profile)
    if name is not None:
        return _released_card(name, prompts)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no model: {C2S_JSON} is missing; use a folder written by Model.save"
        )
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


def resolve_folder(path_or_id: str | os.PathLike[str]) -> Path:
    """Return the folder of a model that is named by its folder or its hub id.

    Raises
    ------
    InputError
        There is none, here or on the hub.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    source = str(path_or_id)
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise InputError(f"{source}: no model directory there")
    return _from_hub(source)


def _from_hub(model_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, ignore_patterns=["*.bin", "*.pt", "*.pkl", "*.h5"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"{model_id}: no folder of that name here, and the hub does not give it"
        ) from error
