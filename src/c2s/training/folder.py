"""The folder of a run: what it holds, who may write there, and how the processes of a run begin with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import yaml

from c2s.common.errors import UsageError, warn
from c2s.common.files import atomic_file
from c2s.training.loop import complete_checkpoints
from c2s.training.processes import Processes, is_first, only_run

if TYPE_CHECKING:
    from c2s.training.grpo.recipe import AlignmentRecipe
    from c2s.training.recipe import TrainingRecipe

#: What a run leaves in its folder.
CONTENTS = {
    "model", "recipe.yaml", "corpus.json", "log.jsonl", "run.json", "checkpoints", "data", "report.html",
}  # fmt: skip


class _Opened(Protocol):
    """A run before its first step, as `begun_run` needs it."""

    @property
    def corpus(self) -> Path:
        """Folder of what is trained on."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of that."""


R = TypeVar("R", bound=_Opened)


@contextmanager
def begun_run(
    recipe: TrainingRecipe | AlignmentRecipe,
    out: Path,
    resume: bool,
    device: str | None,
    opened: Callable[[bool], R],
) -> Iterator[R | None]:
    """Connect the processes of a run, hold its folder, and open what it reads, the first process ahead of the others.

    Parameters
    ----------
    recipe, out, resume, device
        As `run_recipe` takes them.
    opened
        Opens the data; told whether there was trained on them already.

    Yields
    ------
    The run as `opened` gives it, None where it is finished.

    Raises
    ------
    UsageError
        The folder, or what lies there, is that of another run.
    """
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(device))
        with processes.first_goes_ahead():
            if is_first():
                stack.enter_context(held(recipe, out, resume))
            run = None
            if not (out / "run.json").is_file():
                begun = resume and bool(complete_checkpoints(out / "checkpoints"))
                run = opened(begun)
                if is_first():
                    keep_corpus(out, run.corpus, run.manifest["digest"], begun)
        # Compiled kernels that ran meanwhile have set another number, and other numbers of threads round differently.
        torch.set_num_threads(threads)
        yield run


@contextmanager
def held(recipe: TrainingRecipe | AlignmentRecipe, out: Path, resume: bool) -> Iterator[None]:
    """Hold the folder of a run, checked and with its recipe.

    Raises
    ------
    UsageError
        Another run is going on there, or it is refused; see `check_out`.
    """
    if not out.is_dir():
        check_out(recipe, out, resume)
        out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        check_out(recipe, out, resume)
        if not (out / "run.json").is_file():
            if (out / "recipe.yaml").is_file() and not _is_of(out, recipe):
                # What was drawn for another recipe would be taken for this one's.
                shutil.rmtree(out / "data", ignore_errors=True)
                (out / "log.jsonl").unlink(missing_ok=True)
            with atomic_file(out / "recipe.yaml") as path:
                path.write_text(_as_yaml(recipe), "utf-8")
            for cut in set((out / "checkpoints").glob("checkpoint-*")) - set(
                complete_checkpoints(out / "checkpoints")
            ):
                shutil.rmtree(cut)
        yield


def keep_corpus(out: Path, corpus: Path, digest: str, begun: bool) -> None:
    """Note which corpus a run is trained on.

    Raises
    ------
    UsageError
        It was begun on another one.
    """
    path = out / "corpus.json"
    if begun and path.is_file() and json.loads(path.read_text("utf-8"))["digest"] != digest:
        raise UsageError(
            f"data: {corpus} holds another corpus than the run in {out} was begun on; put that one back to go on, "
            "or give another folder with --out"
        )
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"digest": digest}) + "\n", "utf-8")


def finished(out: Path) -> dict[str, Any]:
    """Return the facts of a run that has nothing left to do."""
    warn(f"{out}: the run is finished; nothing was done")
    facts: dict[str, Any] = json.loads((out / "run.json").read_text("utf-8"))
    return facts


def check_out(recipe: TrainingRecipe | AlignmentRecipe, out: Path, resume: bool) -> None:
    """Refuse a folder that something else, or another recipe, was written to.

    Raises
    ------
    UsageError
        It holds foreign files, a finished run, a run of another recipe, or nothing to resume.
    """
    if not out.is_dir():
        if out.exists():
            raise UsageError(f"{out}: is a file; give a folder")
        if resume:
            raise UsageError(f"{out}: there is no run to resume")
        return
    foreign = sorted(p.name for p in out.iterdir() if p.name not in CONTENTS and p.name[0] != ".")
    if foreign:
        raise UsageError(
            f"{out}: holds {foreign[0]!r}, which no training run wrote; give another folder"
        )
    if not (out / "recipe.yaml").is_file():
        if resume:
            raise UsageError(f"{out}: there is no run to resume")
        return
    if resume and not _is_of(out, recipe):
        raise UsageError(
            f"{out}: the run there is of another recipe (recipe.yaml); resume with that one, or give another folder"
        )
    if not resume and ((out / "run.json").is_file() or complete_checkpoints(out / "checkpoints")):
        if (out / "run.json").is_file():
            raise UsageError(f"{out}: holds a finished run; give another folder")
        raise UsageError(
            f"{out}: holds a run that was begun; go on with --resume, or give another folder"
        )


def _is_of(out: Path, recipe: TrainingRecipe | AlignmentRecipe) -> bool:
    """Return whether the run in a folder is of a recipe."""
    return recipe.is_what_stands_in(yaml.safe_load((out / "recipe.yaml").read_text("utf-8")))


def _as_yaml(recipe: TrainingRecipe | AlignmentRecipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
