"""Reading prompts as a model was trained to: with tokens that see what stands behind them (SPEC §17).

Only the pass that reads a prompt differs. What is written behind it is causal in every kind of attention, and sees the
keys and values that the pass left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import UsageError
from c2s.models.attention import PromptReach, visible

if TYPE_CHECKING:
    import torch

    from c2s.models.directory import Model

#: Of each prompt how many tokens at its end belong to the answer already; a number where all have as many.
Begun = Sequence[int] | int

#: Attention that takes a mask for each query.
_MASKED_ATTENTION = ("sdpa", "eager")


class PromptReader:
    """Has a network read prompts with the attention that its card names.

    Parameters
    ----------
    model
        Network, tokenizer and card.

    Attributes
    ----------
    causal : bool
        Whether nothing is to be done.
    """

    def __init__(self, model: Model) -> None:
        attention = model.card.attention
        self.causal = attention.is_causal
        self._reach = PromptReach(attention, model.tokenizer)
        if self.causal:
            return
        self.network = model.network
        config: Any = self.network.config.get_text_config()
        self._open = attention.open_layers(config.num_hidden_layers)
        self._windows = _windows(config)

    @contextmanager
    def reading(
        self, prompts: Sequence[np.ndarray], width: int, begun: Begun = 0, *, left: bool = False
    ) -> Iterator[None]:
        """Have the next pass read whole prompts, each a row of it, with an empty cache.

        Parameters
        ----------
        prompts
            Token ids.
        width
            Length of the rows; what fills them up stands behind the prompts.
        begun
            Tokens of the answers, which see nothing behind them.
        left
            What fills up stands before the prompts.

        Raises
        ------
        UsageError
            The network's attention takes no masks.
        """
        if self.causal:
            yield
            return
        if self.network.config._attn_implementation not in _MASKED_ATTENTION:
            raise UsageError(
                f"attention {self.network.config._attn_implementation!r} reads causally, and the model reads its "
                "prompts otherwise (attention in c2s.json); load it with attention 'sdpa' or 'eager'"
            )
        masks = self._masks(prompts, width, begun, left)
        with ExitStack() as stack:
            for module in self._attention_modules():
                mask = masks[self._windows[module.layer_idx]]
                hook = module.register_forward_pre_hook(partial(_give, mask), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _attention_modules(self) -> list[Any]:
        """Return the attention of the layers that are open."""
        found = [
            m for m in self.network.modules()
            if getattr(m, "layer_idx", None) in self._open and type(m).__name__.endswith("Attention")
        ]  # fmt: skip
        if len(found) != len(self._open):
            raise UsageError(
                f"{type(self.network).__name__}: its attention is not found, so prompts cannot be read as the model's "
                "c2s.json says (attention)"
            )
        return found

    def _masks(
        self, prompts: Sequence[np.ndarray], width: int, begun: Begun, left: bool
    ) -> dict[int | None, torch.Tensor]:
        """Return what is added to scores, for each window. Tensors of shape (n_prompts, 1, width, width)."""
        import torch

        device, dtype = self.network.device, self.network.dtype
        # What fills up sees what stands before it: some token must be seen.
        reach = np.tile(np.arange(width), (len(prompts), 1))
        before = np.zeros(len(prompts), np.int64)
        for row, (prompt, n) in enumerate(
            zip(prompts, np.broadcast_to(begun, len(prompts)), strict=True)
        ):
            before[row] = width - len(prompt) if left else 0
            far = self._reach(prompt, len(prompt) - int(n)) + before[row]
            reach[row, before[row] : before[row] + len(prompt)] = far
        real = torch.arange(width) >= torch.from_numpy(before)[:, None]
        masks = {}
        for window in set(self._windows):
            seen = visible(torch.from_numpy(reach), width, window) & real[:, None]
            added = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
            masks[window] = added[:, None].to(device)
        return masks


def _give(mask: torch.Tensor, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Put a mask in the place of what a layer was given (called by PyTorch)."""
    del module
    return args, {**kwargs, "attention_mask": mask}


def _windows(config: Any) -> list[int | None]:
    """Return the window of each layer's attention, None where it is unlimited."""
    window = getattr(config, "sliding_window", None)
    either = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(config, "layer_types", None) or [either] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]
