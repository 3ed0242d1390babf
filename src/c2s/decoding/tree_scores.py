"""Log-probabilities of answers as a tree of tokens behind prompts that were read once, on a transformers network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from c2s.common.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

    from c2s.constraints.answers import AnswerTree


def score_tree(
    network: PreTrainedModel,
    tree: AnswerTree,
    last: torch.Tensor,
    lengths: torch.Tensor,
    cache: Cache,
    n_cached: int,
    kinds: Mapping[str, int | None],
) -> torch.Tensor:
    """Return log p of each step of a tree behind each prompt.

    Parameters
    ----------
    network
        A decoder whose layers are full or sliding attention.
    tree
        The answers.
    last : int64 tensor, shape (n_prompts,), or float tensor, shape (n_prompts, hidden)
        The last token of each prompt, or its embedding; then gradients flow back to it and the cache.
    lengths : int64 tensor, shape (n_prompts,)
        Tokens of each prompt.
    cache, n_cached
        Of the prompts, and how many tokens of the longest are in it. The rows of the tree are added.
    kinds
        As `attention_kinds` gives them.

    Returns
    -------
    float32 tensor, shape (n_prompts, n_steps)
    """
    import torch

    device = last.device
    ids = torch.as_tensor(tree.token, device=device).repeat(len(last), 1)
    if last.is_floating_point():
        below = network.get_input_embeddings()(ids[:, 1:])
        rows = {"inputs_embeds": torch.cat([last[:, None], below], dim=1)}
    else:
        ids[:, 0] = last
        rows = {"input_ids": ids}
    positions = lengths[:, None] - 1 + torch.as_tensor(tree.depth, device=device)
    sees = torch.as_tensor(tree.sees, device=device)
    masks = {
        kind: _tree_mask(positions, sees, n_cached, window, network.dtype)
        for kind, window in kinds.items()
    }
    logits = network(
        **rows,
        # Networks with one kind of layer take a tensor, those with several a mask for each kind.
        attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).logits.float()  # (n_prompts, n_rows, vocabulary)
    at = torch.as_tensor(tree.step_row), torch.as_tensor(tree.step_token)
    # One prompt after the other, so that its logits are still at hand.
    return torch.stack([prompt.log_softmax(-1)[at] for prompt in logits])


def attention_kinds(network: PreTrainedModel) -> dict[str, int | None]:
    """Return the window of each kind of attention that the layers have, None where it is unlimited.

    Raises
    ------
    UsageError
        A layer is neither full nor sliding attention.
    """
    config: Any = network.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    either = "full_attention" if window is None else "sliding_attention"
    kinds = set(getattr(config, "layer_types", None) or [either])
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise UsageError(
            f"labels cannot be scored by a network with layers of {min(other)};"
            " full and sliding attention are known"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def _tree_mask(
    positions: torch.Tensor,
    sees: torch.Tensor,
    n_cached: int,
    window: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return what the rows of a tree may look at: 0 where they may, a huge negative number where not.

    Parameters
    ----------
    positions : int64 tensor, shape (n_prompts, n_rows)
        Where each row stands in its text; row 0 is the last token of the prompt.
    sees : bool tensor, shape (n_rows, n_rows)
    n_cached
        Tokens of the longest prompt, of which those from the last of each prompt on, and padding, are hidden.
    window
        How many tokens, itself among them, a row reaches back to; None for all.

    Returns
    -------
    tensor of `dtype`, shape (n_prompts, 1, n_rows, n_cached + n_rows)
    """
    import torch

    before = torch.arange(n_cached, device=positions.device)
    real = (before < positions[:, :1])[:, None].expand(-1, positions.shape[1], -1)
    visible = torch.cat([real, sees.expand(len(positions), -1, -1)], dim=-1)
    if window is not None:
        at = torch.cat([before.expand(len(positions), -1), positions], dim=-1)
        visible = visible & (at[:, None] > positions[..., None] - window)
    mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
