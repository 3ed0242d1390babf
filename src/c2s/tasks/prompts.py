"""Prompt packs: the wording of tasks, kept as data, and how it is filled in.

`c2s` is this project's own wording. `upstream` is read at run time from the `cell2sentence` package of a
user who has accepted its licence, for released checkpoints, which are sensitive to the exact words (SPEC
§4.2); it is never stored here. Anything else is the path of a TOML file or of a folder of them.
"""

from __future__ import annotations

import json
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from c2s.common.errors import InputError, UsageError, listing, missing_extra
from c2s.tokens.tokenizer import Segment

#: Files of the `cell2sentence` package that hold the wording of a task.
_UPSTREAM_FILES = {
    "cell_type": "single_cell_cell_type_prediction_prompts.json",
    "cond_cell": "single_cell_cell_type_conditional_generation_prompts.json",
}


@dataclass(frozen=True)
class Template:
    """Text with named places, parsed once.

    Attributes
    ----------
    parts
        Pairs of literal text and the field that follows it, or None at the end.
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse `{field}` places.

        Raises
        ------
        InputError
            A brace does not close, or a place has a format or an index.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InputError(f"the prompt {text[:60]!r} has a brace that does not close") from error
        for _, field, spec, conversion in parsed:
            if field is not None and (not field.isidentifier() or spec or conversion):
                raise InputError(
                    f"the prompt {text[:60]!r} has a place that is not a plain name: {{{field}}}"
                )
        return cls(tuple((literal, field) for literal, field, _, _ in parsed))

    @property
    def text(self) -> str:
        """The text that `parse` makes this template of."""
        return "".join(
            literal.replace("{", "{{").replace("}", "}}") + (f"{{{field}}}" if field else "")
            for literal, field in self.parts
        )

    @property
    def fields(self) -> frozenset[str]:
        """Names of the places."""
        return frozenset(field for _, field in self.parts if field)

    def fill(self, values: Mapping[str, str | int | np.ndarray]) -> list[Segment]:
        """Return the segments with `values` in the places; a cell (an array of columns) stays an array.

        Raises
        ------
        UsageError
            A value is missing.
        """
        segments: list[Segment] = []
        text = ""
        for literal, field in self.parts:
            text += literal
            if field is None:
                continue
            if field not in values:
                raise UsageError(f"the prompt needs {field!r}, which was not given")
            value = values[field]
            if isinstance(value, np.ndarray):
                segments += [text, value] if text else [value]
                text = ""
            else:
                text += str(value)
        return [*segments, text] if text else segments


@dataclass(frozen=True)
class TaskWording:
    """The ways to ask for a task, and how its answer is written."""

    prompts: tuple[Template, ...]
    response: Template

    def pick(self, rng: np.random.Generator) -> Template:
        """Return one of the prompts, drawn uniformly (SPEC §4.2)."""
        return self.prompts[int(rng.integers(len(self.prompts)))]


@dataclass(frozen=True)
class PromptPack:
    """The wording of all tasks, under the name that a model directory remembers."""

    name: str
    tasks: Mapping[str, TaskWording]

    def texts(self) -> dict[str, dict[str, Any]]:
        """Return the texts of all tasks, as a model directory keeps those of a user's own file."""
        return {
            task: {"prompts": [p.text for p in w.prompts], "response": w.response.text}
            for task, w in self.tasks.items()
        }

    @classmethod
    def restore(cls, name: str, texts: Mapping[str, Mapping[str, Any]]) -> PromptPack:
        """Restore what `texts` gave."""
        return cls(
            name, {t: _wording(w.get("prompts"), w.get("response"), name) for t, w in texts.items()}
        )

    def wording(self, task: str) -> TaskWording:
        """Return the wording of a task.

        Raises
        ------
        UsageError
            The pack has none for it.
        """
        if task not in self.tasks:
            raise UsageError(
                f"prompts {self.name!r} have no wording for {task!r}; they have: {listing(sorted(self.tasks))}"
            )
        return self.tasks[task]


@lru_cache(maxsize=8)
def load_prompts(name: str = "c2s") -> PromptPack:
    """Load a prompt pack: "c2s", "upstream", or the path of a TOML file or folder.

    A TOML file has a list `prompts` and a string `response`, with places such as `{cell_sentence}`; its
    name without the suffix is the task.

    Raises
    ------
    UsageError
        "upstream" without the `cell2sentence` package.
    InputError
        A file that is missing or not of that form.
    """
    if name == "c2s":
        files = resources.files("c2s.tasks").joinpath("templates").iterdir()
        tasks = {
            file.name.removesuffix(".toml"): _from_toml(file.read_bytes(), file.name)
            for file in files
            if file.name.endswith(".toml")
        }
    elif name == "upstream":
        tasks = _upstream()
    else:
        path = Path(name)
        found = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not found or not all(f.is_file() for f in found):
            raise InputError(
                f"{name}: no prompts there; give 'c2s', 'upstream', a TOML file or a folder of them"
            )
        tasks = {file.stem: _from_toml(file.read_bytes(), str(file)) for file in found}
    return PromptPack(name, tasks)


def _from_toml(raw: bytes, source: str) -> TaskWording:
    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid TOML ({error})") from error
    return _wording(content.get("prompts"), content.get("response"), source)


def _wording(prompts: object, response: object, source: str) -> TaskWording:
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise InputError(f"{source}: 'prompts' must be a list of at least one text")
    if not isinstance(response, str):
        raise InputError(f"{source}: 'response' must be a text")
    # An answer is tokenised behind a space: prompts end without one and responses begin with one.
    response = " " + response.lstrip(" ")
    try:
        templates = tuple(Template.parse(p.rstrip()) for p in prompts)
        return TaskWording(templates, Template.parse(response))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _upstream() -> dict[str, TaskWording]:
    spec = find_spec("cell2sentence")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("cell2sentence", "upstream")
    folder = Path(spec.submodule_search_locations[0]) / "prompts"
    tasks = {}
    for task, file in _UPSTREAM_FILES.items():
        path = folder / file
        if not path.is_file():
            raise InputError(
                f"{path}: missing; this version of cell2sentence keeps its prompts elsewhere"
            )
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f"{path}: not the prompts of a task; reinstall cell2sentence")
        response = content.get("response")
        if isinstance(response, list) and response:
            response = response[0]
        tasks[task] = _wording(content.get("model_input"), response, str(path))
    return tasks
