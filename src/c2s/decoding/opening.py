"""Engines by name, as verbs and commands give them: "transformers" or "vllm"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from c2s.common.errors import UsageError
from c2s.decoding.engine import Engine, TransformersEngine

if TYPE_CHECKING:
    from c2s.models.directory import Model

#: transformers runs any model; vllm (extra `vllm`) fills its batch up as sequences end.
EngineName = Literal["transformers", "vllm"]


def open_engine(
    model: Model, engine: EngineName | Engine = "transformers", batch_size: int | None = None
) -> Engine:
    """Return an engine on a model.

    Parameters
    ----------
    model
        For "vllm" best opened without its weights: `load_model(…, weights=False)`.
    engine
        "transformers" or "vllm"; an engine is returned as it is. "vllm" takes half a minute to start: where several
        requests follow each other, open it once, give it to each verb, and close it in the end.
    batch_size
        Sequences in a batch; by default what fits the machine.

    Raises
    ------
    UsageError
        There is no engine of that name, or what it needs is not installed.
    """
    if not isinstance(engine, str):
        return engine
    if engine not in get_args(EngineName):
        raise UsageError(f"engine: found {engine!r}, expected 'transformers' or 'vllm'")
    if engine == "transformers":
        return TransformersEngine(model, batch_size)
    from c2s.decoding.vllm_engine import VllmEngine

    return VllmEngine(model, batch_size)


@contextmanager
def engine_for(
    model: Model, engine: EngineName | Engine = "transformers", batch_size: int | None = None
) -> Iterator[Engine]:
    """Open an engine for a piece of work and close it behind; one that is given open is left open.

    Parameters and errors are those of `open_engine`.
    """
    opened = open_engine(model, engine, batch_size)
    try:
        yield opened
    finally:
        if isinstance(engine, str):
            opened.close()


def engine_name(engine: EngineName | Engine) -> str:
    """Return what records call an engine: its name, or the class of one that was given open."""
    return engine if isinstance(engine, str) else type(engine).__name__
