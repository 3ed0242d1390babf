"""c2s-toolkit: cell sentences and language models for single-cell RNA sequencing.

`c2s.pp` prepares cells, `c2s.tl` asks models, `c2s.pl` draws, `c2s.metrics` measures, `c2s.datasets` brings
real cells. Heavy libraries are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c2s import datasets, metrics, pl, pp, tl
    from c2s.cells.inspect import inspect
    from c2s.cells.readers import read
    from c2s.models.directory import Model, attach, load_model

__version__ = _version("c2s-toolkit")

_MODULES = ("datasets", "metrics", "pl", "pp", "tl")
_NAMES = {
    "Model": "c2s.models.directory",
    "attach": "c2s.models.directory",
    "inspect": "c2s.cells.inspect",
    "load_model": "c2s.models.directory",
    "read": "c2s.cells.readers",
}

__all__ = [
    "Model",
    "attach",
    "datasets",
    "inspect",
    "load_model",
    "metrics",
    "pl",
    "pp",
    "read",
    "tl",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"c2s.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'c2s' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
