"""The model that a recipe starts from: random weights of a preset, or trained ones; its context and its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import UsageError
from c2s.common.transformers_log import quiet_transformers
from c2s.models.directory import C2S_JSON, Model, ModelCard, load_model, load_network, new_model
from c2s.models.places import resolve_folder
from c2s.models.presets import get_preset
from c2s.training.data import TrainingData
from c2s.training.recipe import BaseRecipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


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
        with quiet_transformers():
            config = AutoConfig.from_pretrained(resolve_folder(source))
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


def open_base(base: BaseRecipe, folder: Path, data: TrainingData, seed: int) -> Model:
    """Return the model that is trained, with the tokens and genes of the data.

    Raises
    ------
    UsageError
        The tokens of the data are not those of the base.
    """
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
                return Model(
                    AutoModelForCausalLM.from_config(config), tokenizer, card, model.source
                )
        return model
    place = resolve_folder(source)
    config = base_config(base, folder, len(tokenizer.backend))
    network = load_network(place, config=config)
    before = load_model(place, weights=False) if (Path(place) / C2S_JSON).is_file() else None
    _take_tokens(network, place, tokenizer)
    return Model(network, tokenizer, _card(data, before), source)


def _take_tokens(network: PreTrainedModel, place: Path, tokenizer: Any) -> None:
    """Give a trained network rows for tokens that the data add to its own, each the mean of the pieces of its text.

    Raises
    ------
    UsageError
        Tokens of the base are not the same in the data.
    """
    import torch

    from c2s.tokens.tokenizer import load_tokenizer

    own, new = load_tokenizer(place), tokenizer.backend
    before, after = own.get_vocab(), new.get_vocab()
    changed = [t for t, k in before.items() if after.get(t) != k]
    if changed:
        raise UsageError(
            f"data: its tokenizer is not that of base.model (token {changed[0]!r} differs); build the corpus with "
            f"tokenizer: {place.name}"
        )
    added = sorted((k, t) for t, k in after.items() if t not in before)
    if not added:
        return
    rows = network.get_input_embeddings().weight.shape[0]
    if added[-1][0] >= rows:
        network.resize_token_embeddings(added[-1][0] + 1, mean_resizing=False)
    tables = {id(t): t for t in (network.get_input_embeddings(), network.get_output_embeddings())}
    # A gene stands behind a space.
    pieces = own([f" {t}" for _, t in added], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for table in tables.values():
            weight = table.weight
            old = weight[: len(before)].clone()
            for (row, _), ids in zip(added, pieces, strict=True):
                weight[row] = old[ids].mean(0) if ids else old.mean(0)


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
    )
