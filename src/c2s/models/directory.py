"""The model directory: what `save_pretrained` writes plus `c2s.json`, and the `Model` it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, nearest, warn
from c2s.common.files import atomic_directory, atomic_file
from c2s.common.transformers_log import quiet_transformers
from c2s.models.adapters import load_adapted, save_adapter, seen_from
from c2s.models.card import C2S_JSON, ModelCard, card_of, library_versions
from c2s.models.places import find_model, leave_for_commands, model_folder, resolve_folder
from c2s.models.presets import Preset, get_preset
from c2s.models.weights import known_dtype, load_network, n_weights, placement_of, resolve_device
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tokens.tokenizer import CellTokenizer, Segment, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = [
    "C2S_JSON",
    "Model",
    "ModelCard",
    "WeightFiles",
    "attach",
    "find_model",
    "leave_for_commands",
    "library_versions",
    "load_model",
    "load_network",
    "model_folder",
    "new_model",
    "resolve_device",
]


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
        None for a model that was opened without its weights; a network of PEFT where it has an adapter.
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
    adapted : PeftModel or None
        The network as PEFT has it, where it has an adapter; `network` is the same one, as transformers has it.
    """

    def __init__(
        self,
        network: PreTrainedModel | PeftModel | None,
        tokenizer: CellTokenizer,
        card: ModelCard,
        source: str = "",
        files: WeightFiles | None = None,
    ) -> None:
        wrapped: Any = network if hasattr(network, "get_base_model") else None
        self.adapted: PeftModel | None = wrapped
        self._network: Any = network if wrapped is None else wrapped.get_base_model()
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
        return Model(self.adapted or self._network, tokenizer, card, self.source, self.files)

    def encode_prompt(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return the token ids of a prompt, as the model was trained to see them. int32, shape (n_tokens,).

        Released Gemma models read a beginning-of-text token first; answers never begin with one.
        """
        import numpy as np

        ids = self.tokenizer.encode(segments)
        return np.concatenate([self.begin_ids, ids]).astype(np.int32) if self.begin_ids else ids

    def encode_prompt_with_genes(
        self, segments: Sequence[Segment]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of a prompt, as `encode_prompt`, and which of its genes each token is part of.

        int32 and int64, shape (n_tokens,); see `CellTokenizer.encode_with_genes`.
        """
        import numpy as np

        ids, gene = self.tokenizer.encode_with_genes(segments)
        begin = self.begin_ids  # part of no gene
        return (
            np.concatenate([begin, ids]).astype(ids.dtype),
            np.concatenate([np.full(len(begin), -1), gene]).astype(gene.dtype),
        )

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
        return n_weights(self.network.parameters())

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
                    f"a released checkpoint keeps no list of each {condition} that it has seen; leave out strict=True"
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
        if (card.adapter is None) != (self.adapted is None):
            raise UsageError(
                "an adapter is saved with what its base is (adapter in c2s.json), and only with that; "
                "c2s.models.adapters.record_base gives it, merged a model without an adapter"
            )
        if card.adapter is not None:
            card = card.model_copy(update={"adapter": seen_from(card.adapter, Path(path))})
        with atomic_directory(path) as folder, quiet_transformers():
            if self.adapted is not None:
                save_adapter(self.adapted, folder, weights)
            else:
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
    base: str | os.PathLike[str] | None = None,
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
        The family of a checkpoint that cannot be told, as of a local copy under another name: a name in
        `c2s.models.released.profiles()`, or what its model card calls it.
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
    base
        Of a folder with an adapter: where its base lies now, a folder or a hub id; by default where it was.

    Raises
    ------
    InputError
        There is no model there, or its c2s.json, vocabulary, tokenizer or weights are missing or broken.
    UsageError
        The profile is unknown, the wording is missing, or the model has a c2s.json that says all this itself, or a gene
        vocabulary; an option is not possible here, or its extra is not installed.

    Examples
    --------
    >>> model = c2s.load_model("vandijklab/C2S-Pythia-410m-cell-type-prediction")  # doctest: +SKIP
    >>> c2s.tl.annotate(adata, model, ["T cell", "B cell"])  # doctest: +SKIP
    """
    placement = placement_of(device, device_map, quantize)
    source = str(path_or_id)
    folder = resolve_folder(path_or_id)
    card = card_of(folder, source, profile, prompts)
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
    if base is not None and card.adapter is None:
        raise UsageError(f"{source}: has no adapter; leave out base")
    model = Model(None, tokenizer, card, source, WeightFiles(folder, known_dtype(dtype)))
    if genes is not None:
        model = model.with_genes(genes)  # refused before the weights are read
    if not weights:
        if card.adapter is not None:
            raise UsageError(
                f"{source}: holds an adapter, which this engine does not read; merge it with c2s model merge"
            )
        return model
    options: dict[str, Any] = {"dtype": dtype, "device_map": placement, "quantize": quantize}
    network: Any = (
        load_network(folder, **options)
        if card.adapter is None
        else load_adapted(folder, card.adapter, tokenizer, base=base, **options)
    )
    rows = network.get_input_embeddings().weight.shape[0]
    if len(backend) > rows:
        raise InputError(
            f"{folder}: the tokenizer has {len(backend):,} tokens, the weights only {rows:,}"
        )
    if placement is None:
        network.to(resolve_device(device))
    network.eval()
    return Model(network, model.tokenizer, model.card, source)


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
    preset: str | Preset,
    tokenizer: CellTokenizer,
    card: ModelCard,
    seed: int,
    *,
    shape_only: bool = False,
) -> Model:
    """Make a model of a preset's shape from random weights, the same for the same seed.

    `shape_only` makes it without memory for the weights, to count them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    preset = preset if isinstance(preset, Preset) else get_preset(preset)
    config = preset.config(len(tokenizer.backend))
    config.bos_token_id = config.eos_token_id = tokenizer.eos_id
    config.pad_token_id = tokenizer.pad_id
    with torch.random.fork_rng(devices=[]), torch.device("meta" if shape_only else "cpu"):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
    return Model(network, tokenizer, card, f"preset {preset.name}")
