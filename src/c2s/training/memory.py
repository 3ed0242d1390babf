"""What a training step holds in memory, found without weights or data: the step is gone through with tensors that have
shapes only, and what is made and given back on the way is counted."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from c2s.training.loss import weighted_loss
from c2s.training.optimizers import MuonWithAdamW
from c2s.training.packed_attention import PackedLayout, attending_packed

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Layers of the two networks that are gone through; what others would add lies on the line through them. Both are even,
#: because Gemma-2 has two kinds of layers in turn.
_FEW, _MORE = 2, 4


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered, and given back again.

    What the kernels of an operation need inside is not seen.

    Attributes
    ----------
    live, peak : int
        Bytes that are held, and that were held at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter(args) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage(), given)
        return out

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        """Count a storage that is new: not a view of, nor written into, what went in."""
        key = storage._cdata
        if key in self._held or key in given:
            return
        self._held[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self._held.pop(key)

    def take_peak(self) -> int:
        """Return the peak since the last call."""
        peak, self.peak = self.peak, self.live
        return peak


@dataclass(frozen=True)
class PassShape:
    """What goes through the network at a time.

    Attributes
    ----------
    n_samples, sample_tokens
        Samples of equal length. Of uneven ones, `of_lengths` makes those that take as much.
    n_learned
        Tokens that are learned.
    several
        Whether a step has more passes than one, so that gradients are there already while activations are.
    """

    n_samples: int
    sample_tokens: int
    n_learned: int
    several: bool = True

    @classmethod
    def of_lengths(cls, lengths: list[int], n_learned: int, *, several: bool) -> PassShape:
        """Return equal samples with as many tokens as those of given lengths, and about as many pairs of tokens."""
        typical = sum(n * n for n in lengths) / sum(lengths)
        n_samples = max(1, round(sum(lengths) / typical))
        length = -(-sum(lengths) // n_samples)
        return cls(n_samples, length, min(n_learned, n_samples * length), several)

    @property
    def n_tokens(self) -> int:
        """Tokens of the pass."""
        return self.n_samples * self.sample_tokens


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a device holds while it trains, without what the libraries take for themselves.

    Attributes
    ----------
    weights, gradients, optimiser
        In float32; FSDP divides them among the processes, DDP does not (and holds the gradients once more).
    activations
        What the layers keep for the way back, with the weights' copies in bfloat16 where that is computed in.
    loss
        What the loss takes beside that, logits and their gradients.
    peak
        The most that is held at a time: not the sum of all, since activations are given back while gradients come.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    loss: int
    peak: int

    def to_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)


def estimate_memory(
    config: PretrainedConfig,
    shape: PassShape,
    *,
    checkpointing: bool = False,
    precision: Literal["float32", "bfloat16"] = "float32",
    optimizer: Literal["adamw", "muon"] = "adamw",
    change: Callable[[Any], Any] | None = None,
    weights_in: Literal["float32", "bfloat16"] = "float32",
) -> MemoryEstimate:
    """Return what training a network of some shape takes, in seconds and without memory for it.

    Parameters
    ----------
    config
        The network.
    shape
        What goes through it at a time.
    checkpointing, precision, optimizer
        As in a recipe.
    change
        Makes of the network what is trained, such as one with adapters.
    weights_in
        Of the network, before `change`.

    Notes
    -----
    A step is gone through with networks of two and of four layers; more layers lie on the line through them.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    layout = PackedLayout([shape.sample_tokens] * shape.n_samples)
    n_layers = config.num_hidden_layers

    def phases(n: int) -> list[int]:
        network = _network(_with_layers(config, n), change, weights_in)
        if checkpointing:
            network.activation_checkpointing_enable({"use_reentrant": False})
        return _phases(network, layout, shape, precision)

    with FakeTensorMode(allow_non_fake_inputs=True):
        whole = _network(config, change, weights_in)
        weights = _bytes([*whole.parameters(), *whole.buffers()])
        gradients = _bytes([p for p in whole.parameters() if p.requires_grad])
        state = _optimiser_bytes(whole, optimizer)
        if n_layers <= _MORE:
            body, in_loss, on_way_back = phases(n_layers)
        else:
            few, more = phases(_FEW), phases(_MORE)
            body, in_loss, on_way_back = (
                round(a + (b - a) * (n_layers - _FEW) / (_MORE - _FEW))
                for a, b in zip(few, more, strict=True)
            )
    held = gradients if shape.several else 0
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimiser=state,
        activations=body,
        loss=max(0, in_loss - body),
        peak=weights + state + max(held + in_loss, held + on_way_back, gradients),
    )


def _with_layers(config: Any, n_layers: int) -> Any:
    """Return a configuration with another number of layers."""
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = n_layers
    if getattr(changed, "layer_types", None):
        changed.layer_types = changed.layer_types[:n_layers]
    return changed


def network_of_shapes(
    config: Any, change: Callable[[Any], Any] | None = None, weights_in: str = "float32"
) -> Any:
    """Return a network without memory for its weights, on the meta device; arguments as in `estimate_memory`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, weights_in)).train()
        return network if change is None else change(network)


def _network(config: Any, change: Callable[[Any], Any] | None, weights_in: str) -> Any:
    """Return a network of shapes only, ready to be trained; to be called where tensors are fake."""
    # `change` may move what it adds to other devices, which fake tensors cannot; tensors on the meta device can.
    network = network_of_shapes(config, change, weights_in)
    made: dict[int, Any] = {}  # tied weights stay one
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(
                    torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad
                )
                made[-id(parameter)] = parameter  # so that the number is not given to another
            setattr(module, name, made[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return network


def _bytes(tensors: list[torch.Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _optimiser_bytes(network: Any, optimizer: str) -> int:
    """Return the bytes of the optimiser's state: two numbers a weight with AdamW, one with Muon."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if optimizer == "adamw":
        return 2 * _bytes(trained)
    both = MuonWithAdamW(network, muon_lr=1.0, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    by_muon, by_adamw = (
        _bytes([p for group in part.param_groups for p in group["params"]]) for part in both.parts
    )
    return by_muon + 2 * by_adamw


def _phases(network: Any, layout: PackedLayout, shape: PassShape, precision: str) -> list[int]:
    """Return what is held behind the layers, at most while the loss is computed, and at most on the way back.

    Gradients count where there were none before.
    """
    base = network.get_base_model() if hasattr(network, "peft_config") else network
    if shape.several:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
    ids = torch.zeros(1, shape.n_tokens, dtype=torch.int64)
    learned = torch.arange(shape.n_learned)
    weights = torch.zeros(shape.n_learned)
    computed_in: Any = nullcontext()
    if precision == "bfloat16":
        computed_in = torch.autocast("cpu", torch.bfloat16)
    live = LiveBytes()
    with attending_packed(base), live:
        with computed_in:
            hidden = base.base_model(
                input_ids=ids, position_ids=ids, use_cache=False, packed_layout=layout
            ).last_hidden_state[0]
            body = live.live
            live.take_peak()
            loss, _ = weighted_loss(
                hidden.index_select(0, learned), base.get_output_embeddings(), ids[0, : shape.n_learned], weights,
                cap=getattr(base.config, "final_logit_softcapping", None),
            )  # fmt: skip
            del hidden
        in_loss = live.take_peak()
        loss.backward()
        return [body, in_loss, live.take_peak()]
