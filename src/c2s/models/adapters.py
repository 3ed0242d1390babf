"""Adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): put on a network, kept in a model directory, merged.

A model directory with an adapter holds what `save_pretrained` of PEFT writes instead of weights, and says in
`c2s.json` where the base lies and what its weights were. Its network is the base with the adapter on it; the tables of
embeddings are the base's, with rows for the tokens that were added, each the mean of the pieces of its text until it is
trained.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from c2s.common.config import Config
from c2s.common.errors import C2SError, InputError, UsageError, listing, missing_extra
from c2s.common.files import sha256
from c2s.common.transformers_log import quiet_transformers
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

    from c2s.models.directory import Model

#: What a folder with an adapter has instead of weights.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterBase(Config):
    """The base that an adapter stands on."""

    model: str = Field(description="Its folder, or its hub id.")
    beside: str | None = Field(
        default=None,
        description="Its folder as seen from that of the adapter, so that both can be moved together.",
    )
    weights: str = Field(
        description="Checksum of its weights (SHA-256 of names and contents of the safetensors files)."
    )


def require_peft() -> None:
    """Refuse to go on where PEFT is not installed.

    Raises
    ------
    UsageError
        It is not.
    """
    if find_spec("peft") is None:
        raise missing_extra("peft, which makes adapters,", "lora")


def weights_checksum(folder: Path) -> str:
    """Return the SHA-256 of names and contents of the safetensors files of a folder.

    Raises
    ------
    InputError
        There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: there are no weights (safetensors)")
    both = "".join(f"{path.name} {sha256(path)}\n" for path in files)
    return hashlib.sha256(both.encode()).hexdigest()


# --- on a network ---------------------------------------------------------------------------------


def check_tokens(place: Path, tokenizer: CellTokenizer, named: str | None = None) -> None:
    """Refuse a tokenizer that has other numbers for tokens of a trained network; parameters as `take_tokens`.

    Raises
    ------
    UsageError
        A token of the network is another one in the new tokenizer.
    """
    after = tokenizer.backend.get_vocab()
    for token, number in load_tokenizer(place).get_vocab().items():
        if after.get(token) != number:
            raise UsageError(
                f"data: its tokenizer is not that of base.model (token {token!r} differs); build the corpus with "
                f"tokenizer: {named or place}"
            )


def take_tokens(
    network: PreTrainedModel, place: Path, tokenizer: CellTokenizer, named: str | None = None
) -> list[int]:
    """Give a trained network rows for tokens that a tokenizer adds to its own, each the mean of the pieces of its text.

    Parameters
    ----------
    network
        Its tables of embeddings grow where they have no row for a token.
    place
        Folder of its own tokenizer.
    tokenizer
        What it is to read and write.
    named
        What the user calls `place`.

    Returns
    -------
    list of int
        The tokens that were added, in order.

    Raises
    ------
    UsageError
        Tokens of the network are not the same in the new tokenizer.
    """
    import torch

    check_tokens(place, tokenizer, named)
    own, new = load_tokenizer(place), tokenizer.backend
    before, after = own.get_vocab(), new.get_vocab()
    added = sorted((k, t) for t, k in after.items() if t not in before)
    if not added:
        return []
    table: Any = network.get_input_embeddings()
    if added[-1][0] >= table.weight.shape[0]:
        network.resize_token_embeddings(added[-1][0] + 1, mean_resizing=False)
    tables: list[Any] = [network.get_input_embeddings(), network.get_output_embeddings()]
    # A gene stands behind a space.
    pieces = own([f" {t}" for _, t in added], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for weight in {id(t.weight): t.weight for t in tables}.values():
            old = weight[: len(before)].clone()
            for (row, _), ids in zip(added, pieces, strict=True):
                weight[row] = old[ids].mean(0) if ids else old.mean(0)
    return [row for row, _ in added]


def check_targets(config: PretrainedConfig, targets: str | Sequence[str]) -> None:
    """Refuse names that are no linear layers of a network, or its tables of embeddings.

    Parameters
    ----------
    config
        The shape of the network; no weights are made.
    targets
        "all-linear", or ends of names of layers, such as "q_proj".

    Raises
    ------
    UsageError
        A layer cannot have an adapter.
    """
    if isinstance(targets, str):
        return
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    tables = (network.get_input_embeddings(), network.get_output_embeddings())
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and all(module is not t for t in tables)
    ]
    for target in targets:
        if not any(n == target or n.endswith(f".{target}") for n in names):
            kinds = sorted({n.rpartition(".")[2] for n in names})
            raise UsageError(
                f"lora.targets: {config.model_type} has no layer {target!r} that takes an adapter; it has: "
                f"{listing(kinds, 20)}, or give all-linear"
            )


def add_lora(
    network: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str],
    rows: Sequence[int] = (),
    seed: int = 0,
) -> PeftModel:
    """Put an untrained adapter on a network, which it changes; everything but the adapter is frozen.

    Parameters
    ----------
    network
        The base.
    rank, alpha, dropout
        Of LoRA: a layer's change is alpha / rank times the product of two matrices of that rank.
    targets
        "all-linear", or ends of names of layers; see `check_targets`.
    rows
        Tokens whose embeddings are trained, with the rows of the output head where it has its own table. Other rows
        stay as they are.
    seed
        Draws the first matrices; the second ones are 0, so that the network begins as it was.

    Raises
    ------
    UsageError
        PEFT is not installed.
    """
    require_peft()
    import torch
    from peft import LoraConfig, get_peft_model

    named = _tables_by_name(network)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        trainable_token_indices={name: list(rows) for name in named} if rows else None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), _quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(network, config)
    # PEFT keeps matrices of a base in 16 bits in float32, and rows of its tables not: small updates would be lost.
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _tables_by_name(network: PreTrainedModel) -> list[str]:
    """Return the names of the table of embeddings and, where it has a table of its own, of the output head."""
    table: Any = network.get_input_embeddings()
    head: Any = network.get_output_embeddings()
    # PEFT itself follows a head that shares the table.
    found = [table] if head is None or head.weight is table.weight else [table, head]
    return [name for name, module in network.named_modules() if any(module is t for t in found)]


# --- in a model directory -------------------------------------------------------------------------


def save_adapter(
    adapted: PeftModel, folder: Path, state_dict: dict[str, Any] | None = None
) -> None:
    """Write an adapter, and the shape of its network, as PEFT does.

    Parameters
    ----------
    adapted
        The network with its adapter.
    folder
        There.
    state_dict
        The weights of `adapted`, where they are gathered from several processes.
    """
    # Rows of added tokens come from the base's again; with "auto" PEFT would write the whole table.
    given = {} if state_dict is None else {"state_dict": state_dict}
    adapted.save_pretrained(str(folder), save_embedding_layers=False, **given)
    (folder / "README.md").unlink(missing_ok=True)  # a form to be filled in
    adapted.get_base_model().config.save_pretrained(folder)


def load_adapter_weights(adapted: PeftModel, folder: Path) -> None:
    """Give a network the adapter that `save_adapter` wrote, where it has one of the same shape.

    Raises
    ------
    C2SError
        It does not fit.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(folder / ADAPTER_WEIGHTS)
    try:
        found = set_peft_model_state_dict(adapted, state)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise C2SError(f"{folder}: the adapter does not fit the model ({reason})") from error
    odd = [*found.unexpected_keys, *(k for k in found.missing_keys if ".default" in k)]
    if odd:
        raise C2SError(f"{folder}: the adapter does not fit the model ({odd[0]})")


def load_adapted(
    folder: Path,
    record: AdapterBase,
    tokenizer: CellTokenizer,
    *,
    base: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PeftModel:
    """Load the network of a directory with an adapter: the base with the adapter on it.

    Parameters
    ----------
    folder
        With `adapter_config.json`.
    record
        What `c2s.json` says of the base.
    tokenizer
        The directory's.
    base
        Where the base lies, instead of where `record` says.
    **options
        `dtype`, `device_map`, `quantize` of `load_network`.

    Raises
    ------
    InputError
        The base is not there, or it is another one; the adapter is damaged.
    UsageError
        PEFT is not installed.
    """
    require_peft()
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoConfig

    from c2s.models import weights

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing; the folder is damaged")
    place = find_base(folder, record, base)
    with quiet_transformers():
        config, own = AutoConfig.from_pretrained(folder), AutoConfig.from_pretrained(place)
    config.get_text_config().vocab_size = own.get_text_config().vocab_size  # until rows are added
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the run that trained the adapter
    network = weights.load_network(place, config=config, **options)
    take_tokens(network, place, tokenizer)
    try:
        with _quiet_peft():
            adapted = PeftModel.from_pretrained(network, str(folder))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder}: the adapter cannot be read ({reason})") from error
    _write_rows(adapted)
    return adapted


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Hide that PEFT asks whether layers are computed again by the name that it had before transformers 5.23."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _write_rows(adapted: PeftModel) -> None:
    """Write trained rows into the tables, which changes no output: else every pass would copy the whole table."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in adapted.modules():
        if isinstance(module, TrainableTokensLayer):
            module.merge()


def find_base(
    folder: Path, record: AdapterBase, base: str | os.PathLike[str] | None = None
) -> Path:
    """Return the folder of the base that an adapter stands on.

    Raises
    ------
    InputError
        It is not there, or its weights are other ones.
    """
    from c2s.models.places import resolve_folder

    if base is not None:
        place = resolve_folder(base)
    else:
        beside = None if record.beside is None else folder / record.beside
        if Path(record.model).is_dir():
            place = Path(record.model)
        elif beside is not None and beside.is_dir():
            place = beside.resolve()
        elif beside is not None:
            raise InputError(
                f"{folder}: the base of this adapter is not at {record.model} any more; say where: base=…, or "
                "merge it with c2s model merge, which takes --base"
            )
        else:
            place = resolve_folder(record.model)
    if weights_checksum(place) != record.weights:
        raise InputError(
            f"{folder}: {place} is not the base that this adapter was trained on: its weights differ"
        )
    return place


def record_base(place: Path, source: str) -> AdapterBase:
    """Return the record of a base: a folder by its full path, else a hub id."""
    local = Path(source).is_dir()
    return AdapterBase(
        model=str(Path(source).resolve()) if local else source, weights=weights_checksum(place)
    )


def seen_from(record: AdapterBase, folder: Path) -> AdapterBase:
    """Return the record of a base as a folder keeps it, which says how to get from there to the base."""
    if not Path(record.model).is_dir():
        return record
    beside = os.path.relpath(record.model, folder.resolve())
    return record.model_copy(update={"beside": Path(beside).as_posix()})


def merge(
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
) -> Model:
    """Return the model of a directory with an adapter, the adapter merged into the weights, to be saved or asked.

    Parameters
    ----------
    folder
        The directory.
    base
        Where the base lies, where that is not where it was.
    dtype
        Of the weights; by default the base's. Merging rounds to it.

    Raises
    ------
    InputError
        There is no model, no base, or the base is another one.
    UsageError
        The directory has no adapter.
    """
    from c2s.models.directory import load_model

    found = load_model(folder, base=base, dtype=dtype, device="cpu")
    if found.adapted is None:
        raise UsageError(f"{folder}: there is no adapter to merge; its weights are whole")
    return merged(found)


def merged(model: Model) -> Model:
    """Return a model whose adapter is merged into its weights, which are changed; `model` is of no use any more."""
    from c2s.models.directory import Model

    adapted: Any = model.adapted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows are merged already, see `_write_rows`
        network = adapted.merge_and_unload()
    card = model.card.model_copy(update={"adapter": None})
    return Model(network, model.tokenizer, card, model.source)
