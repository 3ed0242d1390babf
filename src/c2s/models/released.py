"""Released checkpoints: how each known family wants to be asked, and which family a folder belongs to.

A released checkpoint (SPEC §18) has no `c2s.json`. What is known of its family stands in `profiles/*.toml`: facts
alone, from model cards and from the code of its authors. Their wording is not ours to keep (SPEC §0.2): it is read at
run time from the user's `cell2sentence` package, or from a file that the user gives.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from c2s.common.config import Config
from c2s.common.errors import InputError, UsageError, listing, nearest
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tasks.registry import get_task


class Released(Config):
    """How a released checkpoint is asked, where that differs from models trained here."""

    profile: str = Field(description="Name of its family.")
    begin: bool = Field(
        description="Whether a prompt begins with the tokenizer's beginning-of-text token."
    )
    end: Literal["token", "response"] = Field(
        description="Whether an answer ends with the end-of-text token, or where the wording of the response ends."
    )
    num_genes: Literal["shown", "asked"] = Field(
        description="What prompts call the number of genes: those shown, or K even of a cell that has fewer."
    )


class Profile(Config):
    """What is known of a family of released checkpoints."""

    about: str = Field(description="What it was trained on, in a line.")
    names: tuple[str, ...] = Field(description="What its folder or model card calls it.")
    architecture: str = Field(description="`model_type` of its `config.json`.")
    top_k: int = Field(ge=1, description="Genes of a cell.")
    prompts: str = Field(description="'upstream', or empty where the user must give the wording.")
    tasks: tuple[str, ...] = Field(description="Ids of the tasks that it was trained on.")
    organisms: tuple[str, ...] = Field(description="Organisms that it was trained on.")
    generation: dict[str, float] = Field(description="Sampling defaults of its authors.")
    begin: bool
    end: Literal["token", "response"]
    num_genes: Literal["shown", "asked"]

    def manner(self, name: str) -> Released:
        """Return how a checkpoint of this family, called `name`, is asked."""
        return Released(profile=name, begin=self.begin, end=self.end, num_genes=self.num_genes)


@cache
def profiles() -> dict[str, Profile]:
    """Return the known families by name."""
    folder = resources.files("c2s.models").joinpath("profiles")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {
        file.name.removesuffix(".toml"): Profile.parse(
            tomllib.loads(file.read_text("utf-8")), file.name
        )
        for file in files
    }


def find_profile(folder: Path, source: str, named: str | None = None) -> str | None:
    """Return the family that a folder belongs to: the one named, else the one that it can be told to be.

    It is told by the hub id or the name of the folder, else by the first family that the model card (`README.md`)
    names, else by the model that `config.json` says it was made from.

    Parameters
    ----------
    folder
        A Hugging Face folder.
    source
        What the user called it: its path or hub id.
    named
        The name of a family, or one of its other names, where the user gives it; the folder may have any name.

    Returns
    -------
    str or None
        None where it cannot be told.

    Raises
    ------
    UsageError
        There is no family of the name given.
    InputError
        `config.json` is that of another architecture than the family's, or cannot be read.
    """
    if named is not None:
        found = _by_name().get(named.rstrip("/").rpartition("/")[2].casefold())
        if found is None:
            close = nearest(named, profiles())
            raise UsageError(
                f"there is no profile {named!r}; there are: {listing(list(profiles()), 20)}"
                + (f" (nearest: {listing(close)})" if close else "")
            )
    else:
        found = _told(folder, source)
    if found is not None:
        _check_architecture(folder, found)
    return found


def load_wording(name: str, prompts: str | None = None) -> PromptPack:
    """Return the wording of a family: the user's own file or folder of files, else the `cell2sentence` package's.

    Raises
    ------
    UsageError
        The package is not installed, or does not have this family's wording, and no file is given.
    InputError
        The file is missing, not of the form of a prompt pack, or has nothing for the tasks of the family.
    """
    profile = profiles()[name]
    if prompts is None and not profile.prompts:
        raise UsageError(
            f"{name} has a wording of its own, which the cell2sentence package lacks; "
            "give it as a TOML file for each task: prompts=FOLDER"
        )
    try:
        pack = load_prompts(prompts or profile.prompts)
    except UsageError as error:
        raise UsageError(
            f"{name}: {error}, or give its wording as TOML files: prompts=FOLDER"
        ) from error
    known = [task for task in profile.tasks if task in pack.tasks]
    if not known:
        raise InputError(
            f"{pack.name}: no wording for a task of {name}; it has: {listing(profile.tasks)}"
        )
    for task in known:
        get_task(task).check_wording(pack.wording(task), f"{pack.name}: {task}")
    return pack


def _told(folder: Path, source: str) -> str | None:
    """Return the family that names around a folder tell, if any."""
    # The hub's cache keeps a model under …/models--vandijklab--NAME/snapshots/REVISION.
    cached = [part.rpartition("--")[2] for part in folder.parts if part.startswith("models--")]
    for name in (source.rstrip("/").rpartition("/")[2], folder.resolve().name, *cached):
        if (found := _by_name().get(name.casefold())) is not None:
            return found
    origin = str(_config(folder).get("_name_or_path", ""))
    return _first_named(_card_text(folder)) or _by_name().get(origin.rpartition("/")[2].casefold())


def _by_name() -> dict[str, str]:
    """Return the family of each name, in lower case."""
    return {alias.casefold(): name for name, p in profiles().items() for alias in (name, *p.names)}


def _first_named(text: str) -> str | None:
    """Return the family that a text names first."""
    places = {}
    for alias, name in _by_name().items():
        if found := re.search(rf"(?<![\w-]){re.escape(alias)}(?![\w-])", text, re.IGNORECASE):
            places[found.start()] = name
    return places[min(places)] if places else None


def _card_text(folder: Path) -> str:
    """Return the text of a model card without its head, which names models that this one was made from."""
    path = folder / "README.md"
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _check_architecture(folder: Path, name: str) -> None:
    expected, found = profiles()[name].architecture, _config(folder).get("model_type")
    if found is None:
        raise InputError(f"{folder}: no model: config.json is missing or names no model_type")
    if found != expected:
        raise InputError(
            f"{folder}: config.json says {found!r}, and {name} is {expected!r}; name its family with profile=…, "
            "or give it genes with c2s.attach"
        )
