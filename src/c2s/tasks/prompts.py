"""Prompt packs: the wording of tasks, kept as data.

`c2s` is this project's own wording. `upstream` is read at run time from the `cell2sentence` package of a
user who has accepted its licence, for released checkpoints, which are sensitive to the exact words (SPEC
§4.2); it is never stored here. Anything else is the path of a TOML file or of a folder of them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from c2s.common.errors import InputError, UsageError, listing, missing_extra
from c2s.tasks.layout import BETWEEN, CELLS, EACH_CELL, EACH_LABEL, LABELS, Layout
from c2s.tasks.template import Template

#: Files of the `cell2sentence` package that hold the wording of a task.
_UPSTREAM_FILES = {
    "cell_type": "single_cell_cell_type_prediction_prompts.json",
    "cond_cell": "single_cell_cell_type_conditional_generation_prompts.json",
    "tissue": "multi_cell_tissue_prediction_prompts.json",
    "cond_sample_tissue": "multi_cell_tissue_conditional_generation.json",
    "nl_interpretation": "multi_cell_natural_lang_interpretation_prompts.json",
}
#: Places that the package calls otherwise.
_UPSTREAM_PLACES = {"multi_cell_sentences": "cells"}
#: How the package writes the cells of a sample (SPEC §4.2). A line break stands behind the last one too, and a
#: full stop of the prompt behind that (SPEC §21i): its models were trained on it, so it is kept.
_UPSTREAM_LAYOUT = {
    "each_cell": "Cell {number}:\n{cell_sentence}.\n",
    "each_label": "Cell {number}:\n{cell_type}.\n",
    "between": "",
}

#: What a file of prompts may hold.
_KEYS = ("prompts", "response", "each_cell", "each_label", "between")
#: Ends of answers of released models.
_CONTROL_TOKENS = ("<ctrl100>", "<eos>", "<|endoftext|>")


@dataclass(frozen=True)
class TaskWording:
    """The ways to ask for a task, and how its answer is written.

    Attributes
    ----------
    prompts, response
        With places such as `{organism}`.
    cells, labels
        What the places `{cells}` and `{cell_types}` expand to.
    """

    prompts: tuple[Template, ...]
    response: Template
    cells: Layout = CELLS
    labels: Layout = LABELS

    def pick(self, rng: np.random.Generator) -> Template:
        """Return one of the prompts, drawn uniformly (SPEC §4.2)."""
        return self.prompts[int(rng.integers(len(self.prompts)))]

    def bare(self, answer: str) -> str:
        """Return an answer without control tokens and without what the response writes around its place."""
        answer = without_control_tokens(answer)
        before, behind = self.response.parts[0][0], self.response.parts[-1]
        answer = answer.removeprefix(before.strip())
        return answer.removesuffix("" if behind[1] else behind[0].strip()).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the texts, in the form of a TOML file of prompts."""
        return {
            "prompts": [prompt.text for prompt in self.prompts],
            "response": self.response.text,
            "each_cell": self.cells.each.text,
            "each_label": self.labels.each.text,
            "between": self.cells.between,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str) -> TaskWording:
        """Read what `to_dict` gives; all but prompts and response may be left out.

        Parameters
        ----------
        content
            The texts.
        source
            Where they are from, for messages.

        Raises
        ------
        InputError
            They are not of that form.
        """
        _check_form(content, source)
        # An answer is tokenised behind a space: prompts end without one and responses begin with one.
        response = " " + content["response"].lstrip(" ")
        between = content.get("between", BETWEEN)
        try:
            return cls(
                tuple(Template.parse(prompt.rstrip()) for prompt in content["prompts"]),
                Template.parse(response),
                Layout.parse(content.get("each_cell", EACH_CELL), "cell_sentence", between),
                Layout.parse(content.get("each_label", EACH_LABEL), "cell_type", between),
            )
        except InputError as error:
            raise InputError(f"{source}: {error}") from error


@dataclass(frozen=True)
class PromptPack:
    """The wording of all tasks, under the name that a model directory remembers."""

    name: str
    tasks: Mapping[str, TaskWording]

    def texts(self) -> dict[str, dict[str, Any]]:
        """Return the texts of all tasks, as a model directory keeps those of a user's own file."""
        return {task: wording.to_dict() for task, wording in self.tasks.items()}

    @classmethod
    def restore(cls, name: str, texts: Mapping[str, Mapping[str, Any]]) -> PromptPack:
        """Restore what `texts` gave."""
        return cls(name, {t: TaskWording.from_dict(w, name) for t, w in texts.items()})

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
    name without the suffix is the task. `each_cell`, `each_label` and `between` say how several cells, or
    their types, are written where the places `{cells}` and `{cell_types}` stand; see `Layout`.

    Raises
    ------
    UsageError
        "upstream" without the `cell2sentence` package.
    InputError
        A file that is missing or not of that form.
    """
    if name == "c2s":
        folder = resources.files("c2s.tasks").joinpath("templates")
        files = sorted(
            (f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name
        )
        tasks = {f.name.removesuffix(".toml"): _from_toml(f.read_bytes(), f.name) for f in files}
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


def without_control_tokens(answer: str) -> str:
    """Return an answer without the control tokens and white space that released models leave around it."""
    for token in _CONTROL_TOKENS:
        answer = answer.replace(token, "")
    return answer.strip()


def _from_toml(raw: bytes, source: str) -> TaskWording:
    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid TOML ({error})") from error
    return TaskWording.from_dict(content, source)


def _check_form(content: Mapping[str, Any], source: str) -> None:
    prompts = content.get("prompts")
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise InputError(f"{source}: 'prompts' must be a list of at least one text")
    for key in _KEYS[1:]:
        if not isinstance(content.get(key, None if key == "response" else ""), str):
            raise InputError(f"{source}: {key!r} must be a text")
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise InputError(f"{source}: {unknown[0]!r} is unknown; there are: {listing(_KEYS)}")


def _upstream() -> dict[str, TaskWording]:
    spec = find_spec("cell2sentence")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("cell2sentence", "upstream")
    folder = Path(spec.submodule_search_locations[0]) / "prompts"
    return {task: _from_upstream(folder / file) for task, file in _UPSTREAM_FILES.items()}


def _from_upstream(path: Path) -> TaskWording:
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
    ours = {"prompts": content.get("model_input"), "response": response, **_UPSTREAM_LAYOUT}
    wording = TaskWording.from_dict(ours, str(path))
    return replace(
        wording,
        prompts=tuple(prompt.renamed(_UPSTREAM_PLACES) for prompt in wording.prompts),
        response=wording.response.renamed(_UPSTREAM_PLACES),
    )
