"""The processes of one training run: which is the first, waiting for it, and one run a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from c2s.common.errors import UsageError
from c2s.models.directory import resolve_device

#: How long processes wait for the first, which may draw a corpus meanwhile. One that dies ends the waiting at once.
_PATIENCE = timedelta(days=30)


def rank() -> int:
    """Return which process of the run this is, as torchrun and accelerate say."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Return whether this process is the first of the run, which writes and speaks."""
    return rank() == 0


def world_size() -> int:
    """Return how many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_sharded() -> bool:
    """Return whether weights are to be divided among processes (FSDP), as accelerate says."""
    return world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_sharding(optimizer: str, *, adapter: bool = False) -> None:
    """Refuse ways of dividing a model that training does not know.

    Raises
    ------
    UsageError
        FSDP1 or DeepSpeed is asked for, or Muon or an adapter with divided matrices.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise UsageError("DeepSpeed is not supported; use FSDP2 (--launch fsdp2-gpus)")
    if not is_sharded():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UsageError("FSDP1 is not supported; set fsdp_version: 2 in accelerate's config")
    if adapter:
        raise UsageError(
            "lora: adapters are not trained on weights that FSDP divides; use DDP (--launch ddp-gpus), with "
            "base.dtype: bfloat16 or base.quantize: 4bit for a large base"
        )
    if optimizer == "muon":
        raise UsageError(
            "optimisation.optimizer: muon needs whole matrices, which FSDP divides; use adamw, or DDP "
            "(--launch ddp-gpus)"
        )


class Processes:
    """The processes of a run, connected while the context is open; one process waits for nobody.

    Parameters
    ----------
    device
        "cpu" keeps off a GPU, as in training.
    """

    def __init__(self, device: str | None) -> None:
        self._on_cpu = resolve_device(device) == "cpu"
        self._group: Any = None

    def __enter__(self) -> Processes:
        if world_size() > 1:
            from accelerate import PartialState
            from torch import distributed

            # The Trainer finds the connection made, and takes it.
            PartialState(cpu=self._on_cpu)
            # A group of its own, since collectives of training shall not wait for days.
            self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failure the others may be in the middle of a collective; the launcher ends them.
        if self._group is not None and kind is None:
            from torch import distributed

            self.wait()
            distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._group is not None:
            from torch import distributed

            distributed.barrier(group=self._group)

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the first process do something before the others do the same."""
        if not is_first():
            self.wait()
        yield
        if is_first():
            self.wait()


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Hold a folder for this run.

    Raises
    ------
    UsageError
        Another run is going on there.
    """
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{out}: a run is going on there; wait for it, or give another folder"
            ) from None
        yield
