"""Where models are: folders, the hub, and the one that `c2s demo` leaves for commands that name none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from c2s.common.errors import InputError, UsageError
from c2s.common.files import atomic_directory
from c2s.models.card import C2S_JSON
from c2s.models.hub import from_hub


def model_folder() -> Path:
    """Return where `c2s demo` leaves a model for commands that are given none, in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("c2s-toolkit") / "model"


def leave_for_commands(folder: Path) -> Path:
    """Copy a model directory to where commands look when no model is named; return that place."""
    place = model_folder()
    with atomic_directory(place) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return place


def find_model(named: str | os.PathLike[str] | None = None) -> str:
    """Return the model to use: the one named, else `C2S_MODEL`, else the one that `c2s demo` left.

    Raises
    ------
    UsageError
        There is none.
    """
    choice = str(named) if named is not None else os.environ.get("C2S_MODEL", "")
    if choice:
        return choice
    if (model_folder() / C2S_JSON).is_file():
        return str(model_folder())
    raise UsageError(
        "there is no model to ask; run `c2s demo` to make one, give --model FOLDER, or set C2S_MODEL"
    )


def resolve_folder(path_or_id: str | os.PathLike[str]) -> Path:
    """Return the folder of a model that is named by its folder or its hub id.

    Raises
    ------
    InputError
        There is none, here or on the hub.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    source = str(path_or_id)
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise InputError(f"{source}: no model directory there")
    return from_hub(source)
