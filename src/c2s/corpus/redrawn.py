"""A corpus that is drawn anew for every epoch: other ties, other samples, other wordings of the same cells."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from c2s.common.progress import OnStage, no_progress
from c2s.corpus.build import build_from
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.show import read_manifest


class RedrawnCorpus:
    """A folder of corpora, one an epoch, each built when it is first asked for.

    What is drawn in an epoch depends on the recipe and the epoch only. Processes may ask for the same epoch: one
    builds it and the others wait.

    Parameters
    ----------
    recipe
        Of the corpus.
    folder
        Where the recipe's relative paths begin.
    out
        Where the corpora are kept; finished epochs but the last two are removed.
    workers
        Processes that build the first epoch; later ones are built in the process that asks.
    """

    def __init__(
        self, recipe: CorpusRecipe, folder: Path, out: Path, *, workers: int | None = None
    ) -> None:
        self.recipe, self.folder, self.out, self.workers = recipe, Path(folder), Path(out), workers

    def epoch(self, number: int, on_stage: OnStage = no_progress) -> Path:
        """Return the folder of an epoch's corpus, building it where it is not there.

        Raises
        ------
        C2SError
            It cannot be built; see `build_corpus`.
        """
        path = self.out / f"epoch-{number:05d}"
        if (path / "manifest.json").is_file():
            return path
        self.out.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (path / "manifest.json").is_file():
                self._take_looks(path)
                draw = self.recipe.draw + number
                build_from(
                    self.recipe.model_copy(update={"draw": draw}),
                    self.folder,
                    path,
                    workers=1 if number else self.workers,
                    keep_looks=True,
                    on_stage=on_stage,
                )
                for old in sorted(self.out.glob("epoch-?????"))[:-3]:
                    if old.name != "epoch-00000" and old < path:
                        self._remove(old)
        return path

    def _remove(self, old: Path) -> None:
        """Remove an epoch, but not how many items it had; at no moment is there half of one."""
        os.replace(old / "manifest.json", _kept(old))
        aside = self.out / f".{old.name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(old, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _take_looks(self, path: Path) -> None:
        """Take what was found out about the sources from the first epoch, so that it is not looked for again."""
        first = self.out / "epoch-00000" / "work"
        if first.is_dir() and not (path / "work").exists():
            shutil.copytree(first, path / "work", copy_function=os.link)

    def n_items(self, number: int, split: str = "train", *, packed: bool = True) -> int:
        """Return how many packed sequences, or samples, an epoch has; one that was removed is not built again."""
        path = self.out / f"epoch-{number:05d}"
        with suppress(OSError, ValueError):
            return _count(json.loads(_kept(path).read_text("utf-8")), split, packed)
        return _count(read_manifest(self.epoch(number)), split, packed)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.out / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)


def _kept(path: Path) -> Path:
    """Return where the manifest of an epoch stays when the epoch is removed."""
    return path.with_suffix(".json")


def _count(manifest: dict[str, Any], split: str, packed: bool) -> int:
    """Return the packed sequences, or samples, of a split."""
    return int(manifest["sequences"][split] if packed else sum(manifest["samples"][split].values()))
