"""A corpus that is drawn anew for every epoch: other ties, other samples, other wordings of the same cells."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
                for old in sorted(self.out.glob("epoch-*"))[:-3]:
                    if old.name != "epoch-00000" and old < path:
                        shutil.rmtree(old, ignore_errors=True)
        return path

    def _take_looks(self, path: Path) -> None:
        """Take what was found out about the sources from the first epoch, so that it is not looked for again."""
        first = self.out / "epoch-00000" / "work"
        if first.is_dir() and not (path / "work").exists():
            shutil.copytree(first, path / "work", copy_function=os.link)

    def n_items(self, number: int, split: str = "train") -> int:
        """Return how many packed sequences an epoch has."""
        return int(read_manifest(self.epoch(number))["sequences"][split])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.out / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
