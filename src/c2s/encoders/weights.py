"""What a network's weights are, as bytes for a content hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def hash_weights(content: _Hash, network: torch.nn.Module) -> None:
    """Add the name, type, shape and value of every weight to a hash.

    Parameters
    ----------
    content
        From `hashlib`.
    network
        On any device; the result does not depend on it.
    """
    import torch

    for name, tensor in sorted(network.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content.update(memoryview(flat.view(torch.uint8).numpy()))
