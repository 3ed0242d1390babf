"""The model that a recipe starts from: random weights of a preset, or trained ones; its context and its tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import UsageError, listing, missing_extra
from c2s.common.transformers_log import quiet_transformers
from c2s.models.adapters import (
    ADAPTER_CONFIG,
    add_lora,
    check_targets,
    record_base,
    require_peft,
    take_tokens,
)
from c2s.models.directory import (
    C2S_JSON,
    Model,
    ModelCard,
    load_model,
    load_network,
    new_model,
    resolve_device,
)
from c2s.models.places import resolve_folder
from c2s.models.presets import get_preset
from c2s.tasks.pathways import PathwayLine
from c2s.tokens.tokenizer import load_tokenizer
from c2s.training.data import TrainingData
from c2s.training.recipe import BaseRecipe, LoraRecipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def base_folder(base: BaseRecipe, folder: Path) -> str | None:
    """Return where the trained base lies, a folder or a hub id; None for a preset."""
    if base.model is None:
        return None
    local = folder / base.model
    return str(local) if local.is_dir() else base.model


def base_config(base: BaseRecipe, folder: Path, vocab_size: int) -> PretrainedConfig:
    """Return the shape of the base, with the recipe's context.

    Raises
    ------
    UsageError
        The context cannot be had.
    """
    from transformers import AutoConfig

    source = base_folder(base, folder)
    if source is None:
        config = get_preset(str(base.preset)).config(vocab_size)
    else:
        place = resolve_folder(source)
        if (place / ADAPTER_CONFIG).is_file():
            raise UsageError(
                f"base.model: {source} holds an adapter; merge it with c2s model merge, and train that"
            )
        with quiet_transformers():
            config = AutoConfig.from_pretrained(place)
    if base.context is not None:
        set_context(config, base.context, base.extend)
    return config


def set_context(config: Any, context: int, extend: str) -> None:
    """Give a configuration another context: a shorter one as a limit, a longer one by extending rotary positions.

    Parameters
    ----------
    extend
        "linear": positions are divided by the factor (Chen et al. 2023, arXiv:2306.15595); "dynamic", "yarn": as
        transformers has them.

    Raises
    ------
    UsageError
        The network has positions of another kind.
    """
    known = config.max_position_embeddings
    if context <= known:
        return  # samples are shorter; the network still could take longer ones
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        raise UsageError(
            f"base.context = {context:,}: {config.model_type} has no rotary positions that could be extended beyond "
            f"{known:,}"
        )
    if rope.get("rope_type", "default") != "default":
        raise UsageError(
            f"base.context = {context:,}: its rotary positions are of kind {rope['rope_type']!r} already and are not "
            f"extended beyond {known:,}"
        )
    changed = {**rope, "rope_type": extend, "factor": context / known}
    if extend in ("dynamic", "yarn"):
        changed["original_max_position_embeddings"] = known
    config.rope_parameters = changed
    config.max_position_embeddings = context


def check_lora(base: BaseRecipe, lora: LoraRecipe | None, config: PretrainedConfig) -> None:
    """Refuse, before weights are read, what an adapter or a base in 4 bits lacks.

    Raises
    ------
    UsageError
        An extra is not installed, or `lora.targets` names no layer of the base.
    """
    if base.quantize is not None and find_spec("bitsandbytes") is None:
        raise missing_extra(f"base.quantize = {base.quantize}: bitsandbytes", "quant")
    if lora is not None:
        require_peft()
        check_targets(config, lora.targets)


def change_of_shape(
    base: BaseRecipe, lora: LoraRecipe | None, folder: Path, data: TrainingData
) -> Callable[[Any], Any]:
    """Return what makes of a plain network what is trained, for estimates without weights."""
    source = base_folder(base, folder)
    rows: list[int] = []
    if lora is not None and lora.gene_tokens == "train" and source is not None:
        known = load_tokenizer(resolve_folder(source)).get_vocab()
        after = data.tokenizer.backend.get_vocab()
        rows = sorted(k for t, k in after.items() if t not in known)

    def change(network: Any) -> Any:
        if lora is None:
            return network
        return add_lora(
            network, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, rows=rows
        )  # fmt: skip

    return change


def open_base(
    base: BaseRecipe,
    folder: Path,
    data: TrainingData,
    seed: int,
    lora: LoraRecipe | None = None,
    device: str | None = None,
) -> Model:
    """Return the model that is trained, with the tokens and genes of the data, and an adapter where one is wanted.

    Parameters
    ----------
    base, lora
        What of the recipe it is.
    folder
        Where relative paths begin.
    data
        What is trained on.
    seed
        Draws random weights.
    device
        Of a base in 4 bits, which is made there: "cpu" keeps off a GPU.

    Raises
    ------
    UsageError
        The tokens of the data are not those of the base.
    """
    model, added = _open_whole(base, folder, data, seed, device)
    return model if lora is None else with_adapter(model, lora, added, seed)


def with_adapter(model: Model, lora: LoraRecipe, added: list[int], seed: int) -> Model:
    """Return a model with a new adapter.

    Parameters
    ----------
    model
        Its network is changed in place.
    lora
        The adapter.
    added
        Tokens that its base did not have before, which are trained too where the recipe says so.
    seed
        Draws the adapter's weights.
    """
    rows = added if lora.gene_tokens == "train" else []
    adapted = add_lora(
        model.network, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, rows=rows,
        seed=seed,
    )  # fmt: skip
    card = model.card
    if lora.keep == "adapter":
        record = record_base(resolve_folder(model.source), model.source)
        card = card.model_copy(update={"adapter": record})
    return Model(adapted, model.tokenizer, card, model.source)


def _open_whole(
    base: BaseRecipe, folder: Path, data: TrainingData, seed: int, device: str | None
) -> tuple[Model, list[int]]:
    """Return the model without an adapter, and the tokens that it did not have before."""
    tokenizer = data.tokenizer
    source = base_folder(base, folder)
    card = _card(data, None)
    if source is None:
        model = new_model(str(base.preset), tokenizer, card, seed)
        if base.context is not None and base.context > model.network.config.max_position_embeddings:
            import torch
            from transformers import AutoModelForCausalLM

            config = model.network.config
            set_context(config, base.context, base.extend)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = AutoModelForCausalLM.from_config(config)
                return Model(network, tokenizer, card, model.source), []
        return model, []
    place = resolve_folder(source)
    config = base_config(base, folder, len(tokenizer.backend))
    dtype = base.dtype or ("bfloat16" if base.quantize else "float32")
    network = load_network(
        place,
        dtype=dtype,
        device_map=_placement(base, device),
        quantize=base.quantize,
        config=config,
    )
    before = load_model(place, weights=False) if (Path(place) / C2S_JSON).is_file() else None
    added = take_tokens(network, place, tokenizer, str(base.model))
    return Model(network, tokenizer, _card(data, before), source), added


def _placement(base: BaseRecipe, device: str | None) -> Any:
    """Return where the base's weights are loaded to, None for main memory: the Trainer moves them from there."""
    if base.device_map is not None or base.quantize is None:
        return base.device_map
    # Weights in 4 bits are made on the device itself, each process on its own.
    where = resolve_device(device)
    return {"": f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if where == "cuda" else where}


def _card(data: TrainingData, before: Model | None) -> ModelCard:
    """Return the card of a model that learns from the data, with what the base knew already."""
    recipe, tokenizer = data.recipe, data.tokenizer
    pack = None if recipe.prompts in ("c2s", "upstream") else data.prompts.texts()
    tasks, conditions, inverse = set(data.tasks), dict(data.conditions), {}
    if before is not None:
        tasks |= set(before.card.tasks)
        inverse = before.card.inverse
        conditions = {
            k: sorted({*conditions.get(k, []), *before.known(k)})
            for k in {*conditions, *before.card.conditions}
        }
    return ModelCard(
        vocabulary=list(tokenizer.vocabulary.words),
        symbols=list(tokenizer.vocabulary.symbols),
        mode=tokenizer.mode,
        top_k=data.top_k,
        preprocessing={"target_sum": 1e4, "log_base": 10},
        prompts=recipe.prompts,
        wording=pack or {},
        tasks=sorted(tasks),
        conditions=conditions,
        inverse=inverse,
        pathways=pathways_named(data, None if before is None else before.card.pathways),
    )


def pathways_named(data: TrainingData, before: PathwayLine | None) -> PathwayLine | None:
    """Return what is named before answers: that of the data, and the base's for tasks that are not trained on.

    Raises
    ------
    UsageError
        These are different pathways.
    """
    own = data.pathways
    kept = [] if before is None else [t for t in before.tasks if t not in data.tasks]
    if before is None or not kept:
        return own
    if own is None:
        return before.model_copy(update={"tasks": kept})
    if (own.names, own.number) != (before.names, before.number):
        raise UsageError(
            f"pathways: the base names others before the answers of {listing(kept)}, and a model names one list; "
            "train on these tasks too, or give pathways.gene_sets and pathways.number of the base"
        )
    return own.model_copy(update={"tasks": sorted({*own.tasks, *kept})})
