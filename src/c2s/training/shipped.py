"""Recipes and hyperparameters that come with the package, by name."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

from c2s.common.errors import UsageError, listing, nearest

#: What is no recipe by itself.
_HYPERPARAMETERS = "hyperparameters.yaml"


def recipe_names() -> list[str]:
    """Return the names of the recipes, in order."""
    folder = resources.files("c2s.training").joinpath("recipes")
    names = [f.name for f in folder.iterdir() if f.name.endswith(".yaml")]
    return sorted(n.removesuffix(".yaml") for n in names if n != _HYPERPARAMETERS)


def shipped_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's content; errors are those of `recipe_text`."""
    content: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return content


def recipe_text(name: str) -> str:
    """Return a recipe as it is written, with its comments.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    known = recipe_names()
    if name not in known:
        close = nearest(name, known)
        raise UsageError(
            f"there is no file {name!r}, and no recipe of this name; those that come with the package: "
            f"{listing(known)}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return _text(f"{name}.yaml")


@cache
def hyperparameters() -> dict[str, dict[str, Any]]:
    """Return the published hyperparameters (SPEC §5 and §6) by name: fields of a recipe's `optimisation`."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(_text(_HYPERPARAMETERS))
    return found


@cache
def grpo_settings() -> dict[str, dict[str, Any]]:
    """Return the published settings of alignment (SPEC §7.2) by name: fields of a recipe's `policy`."""
    text = resources.files("c2s.training").joinpath("grpo/settings.yaml").read_text("utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def with_preset(given: Any, presets: dict[str, dict[str, Any]]) -> Any:
    """Return a section of a recipe with what its `preset` says, where it does not say so itself.

    Raises
    ------
    ValueError
        There is no such preset, for a pydantic model.
    """
    if not isinstance(given, dict) or not isinstance(given.get("preset"), str):
        return given
    name = given["preset"]
    if name not in presets:
        close = nearest(name, presets)
        raise ValueError(
            f"there is no preset {name!r}; there are: {listing(list(presets), 20)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return {**presets[name], **{k: v for k, v in given.items() if v is not None}}


def _text(name: str) -> str:
    return resources.files("c2s.training").joinpath(f"recipes/{name}").read_text("utf-8")
