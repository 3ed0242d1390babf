"""A corpus that is drawn anew for every epoch: other ties, other samples, other wordings of the same cells."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from c2s.common.errors import InputError, UsageError
from c2s.common.files import sha256
from c2s.common.progress import OnStage, no_progress
from c2s.corpus.build import build_from, source_files
from c2s.corpus.index import index_source
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.show import read_manifest
from c2s.corpus.sources import expand


class RedrawnCorpus:
    """A folder of corpora, one an epoch, each built when it is first asked for.

    What is drawn in an epoch depends on the recipe, its files and the epoch only; a corpus that was drawn of others is
    drawn anew. Processes may ask for the same epoch: one builds it and the others wait.

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
    begun
        There was trained on what is there: where it is of another recipe or other files, it is refused.
    """

    def __init__(
        self,
        recipe: CorpusRecipe,
        folder: Path,
        out: Path,
        *,
        workers: int | None = None,
        begun: bool = False,
    ) -> None:
        self.recipe, self.folder, self.out, self.workers = recipe, Path(folder), Path(out), workers
        self.begun = begun

    def epoch(self, number: int, on_stage: OnStage = no_progress) -> Path:
        """Return the folder of an epoch's corpus, building it where it is not there.

        Raises
        ------
        C2SError
            It cannot be built; see `build_corpus`.
        InputError
            A file changed while it was trained on.
        UsageError
            What was trained on is of another recipe or other files.
        """
        path = self.out / f"epoch-{number:05d}"
        if self._is_there(number):
            return path
        self.out.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self._is_there(number):
                self._clear(path)
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
                if not self._is_there(number):
                    raise InputError(
                        "data.recipe: a file of the corpus changed while it was trained on; put it back and go on, or "
                        "train anew in another folder"
                    )
                for old in sorted(self.out.glob("epoch-?????"))[:-3]:
                    if old.name != "epoch-00000" and old < path:
                        self._remove(old)
        return path

    def _is_there(self, number: int) -> bool:
        """Return whether the corpus of an epoch is there, of this recipe and these files."""
        path = self.out / f"epoch-{number:05d}"
        if not (path / "manifest.json").is_file():
            return False
        manifest = read_manifest(path)
        if self._is_of_recipe(manifest, number) and _digests(manifest) == self._wanted:
            return True
        # The first epoch says what was trained on; a later one of other files was never read.
        if self.begun and not number:
            raise UsageError(
                f"data.recipe: what was trained on ({path}) is of another recipe or other files than these; put them "
                "back to go on, or train anew in another folder"
            )
        return False

    def _is_of_recipe(self, manifest: dict[str, Any], number: int) -> bool:
        """Return whether a manifest is of this recipe; a model's tokenizer may lie elsewhere now."""
        try:
            there = CorpusRecipe.parse(manifest["recipe"], "manifest")
        except UsageError:
            return False
        wanted = self.recipe.model_copy(update={"draw": self.recipe.draw + number})
        if os.path.isabs(there.tokenizer) and os.path.isabs(wanted.tokenizer):
            there = there.model_copy(update={"tokenizer": wanted.tokenizer})
        return there.deciding() == wanted.deciding()

    @cached_property
    def _wanted(self) -> dict[str, set[str]]:
        """The SHA-256 of every file that decides what is drawn, by kind; looks of unchanged sources are taken."""
        recipe, work = self.recipe, self.out / "epoch-00000" / "work"
        work.mkdir(parents=True, exist_ok=True)
        found = {
            "sources": {index_source(f, work).sha256 for f in source_files(recipe, self.folder)},
            "gene sets": {sha256(path) for path in expand(recipe.gene_sets, self.folder)},
        }
        pathways = None if recipe.pathways is None else recipe.pathways.gene_sets
        for name, file in (("pathways", pathways), ("abstracts", recipe.abstracts)):
            found[name] = set() if file is None else {sha256(self.folder / file)}
        return found

    def _clear(self, path: Path) -> None:
        """Remove a corpus of something else, but not what was found out about the sources."""
        if not (path / "manifest.json").is_file():
            return
        (path / "manifest.json").unlink()
        for part in path.iterdir():
            if part.is_dir() and part.name != "work":
                shutil.rmtree(part)

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
            kept = json.loads(_kept(path).read_text("utf-8"))
            if self._is_of_recipe(kept, number) and _digests(kept) == self._wanted:
                return _count(kept, split, packed)
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


def _digests(manifest: dict[str, Any]) -> dict[str, set[str]]:
    """Return the SHA-256 of the files that a corpus was drawn of, by kind."""
    found = {name: {f["sha256"] for f in manifest[name]} for name in ("sources", "gene sets")}
    for name in ("pathways", "abstracts"):
        told = manifest.get(name)
        found[name] = set() if told is None else {told["sha256"]}
    return found


def _count(manifest: dict[str, Any], split: str, packed: bool) -> int:
    """Return the packed sequences, or samples, of a split."""
    return int(manifest["sequences"][split] if packed else sum(manifest["samples"][split].values()))
