"""Building a corpus: look at the sources, plan, map the units, and close with a manifest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError, listing
from c2s.common.files import atomic_directory, atomic_file, refuse_foreign, sha256
from c2s.common.progress import OnStage
from c2s.corpus.engines import Map, map_in_turn, processes, started
from c2s.corpus.index import SHORT, SourceFile, SourceIndex, index_source, stamp, words_path
from c2s.corpus.recipe import CorpusRecipe, read_recipe
from c2s.corpus.shards import LAYOUT
from c2s.corpus.show import manifest_digest
from c2s.corpus.sources import expand
from c2s.corpus.splits import BY_CELL, CORPUS_PARTS, HELD_OUT, split_groups
from c2s.corpus.unit import (
    Unit,
    UnitRecord,
    build_unit,
    count_genes,
    genes_path,
    shared_digest,
)  # fmt: skip
from c2s.knowledge.gene_sets import read_gmt
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.pathways import PathwayLine, line, line_constraint
from c2s.tasks.prompts import load_prompts
from c2s.tasks.registry import TASKS
from c2s.teachers.abstracts import read_abstracts
from c2s.tokens.tokenizer import (
    CellTokenizer,
    add_gene_tokens,
    load_tokenizer,
    save_tokenizer,
    train_text_tokenizer,
)

#: What a corpus folder holds. `work` is there only until it is complete, `lock` and `log.jsonl` beside the result.
CONTENTS = {
    "cells", "tokens", "units", "tokenizer", "work", "manifest.json", "recipe.yaml", "genes.txt", "README.md",
    "lock", "log.jsonl",
}  # fmt: skip

_VERSION = metadata.version("c2s-toolkit")

#: Libraries whose versions can decide bytes.
LIBRARIES = (
    "numpy",
    "pandas",
    "scipy",
    "pyarrow",
    "tokenizers",
    "transformers",
    "h5py",
    "zarr",
    "numba",
)


@dataclass(frozen=True)
class PathwayFile:
    """The gene sets whose names may stand before answers."""

    path: str
    resolved: str
    sha256: str
    names: list[str]
    """Of the sets that have enough genes among those of all sources."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first matrix is read."""

    recipe: CorpusRecipe
    folder: Path
    """Of the recipe: relative paths begin there."""
    sources: dict[str, tuple[SourceFile, SourceIndex]]
    """By SHA-256, in the order of the hashes."""
    repeated: list[dict[str, str]]
    """Files that hold the same bytes as another."""
    splits: dict[str, dict[str, str]]
    """Part of each donor of each study."""
    notes: list[str]
    """What a user should know."""
    gene_sets: dict[str, tuple[str, str, dict[str, str]]]
    """By SHA-256: path, resolved path, part of each set."""
    abstracts: dict[str, list[str]]
    """The texts of each study that occurs."""
    abstracts_sha256: str | None
    words: list[str]
    """The genes of all sources."""
    teacher: dict[str, Any] | None
    """What asking for paraphrases would take, where they are not asked for yet."""
    pathways: PathwayFile | None = None
    """Where pathways are named before answers."""

    def units(self, genes: Mapping[str, str], tokenizer: str) -> list[Unit]:
        """Return the pieces of work, in the order of their names.

        Parameters
        ----------
        genes
            The digest of the genes that are used of each source; "" for all.
        tokenizer
            SHA-256 of the tokenizer.
        """
        units = []
        for sha, (file, index) in self.sources.items():
            decided = _key(self._facts(file, index, tokenizer, genes[sha]))
            for start in range(0, index.n_cells, self.recipe.unit_cells):
                stop = min(start + self.recipe.unit_cells, index.n_cells)
                units.append(Unit("cells", sha, start, stop, _key([decided], sha, start, stop)))
        for sha, (_, _, parts) in self.gene_sets.items():
            if self.recipe.task_ids("gene_set"):
                facts = self._facts(None, None, tokenizer, sorted(parts.items()))
                units.append(Unit("gene_sets", sha, 0, len(parts), _key(facts, sha, 0, len(parts))))
        return units

    def _facts(
        self, file: SourceFile | None, index: SourceIndex | None, *more: object
    ) -> list[Any]:
        """Return what decides the bytes of a unit, so that a corpus that grows keeps the shards it has."""
        recipe = self.recipe.deciding()
        for name in ("sources", "gene_sets", "abstracts", "paraphrases", "split"):
            del recipe[name]
        if self.pathways is not None:
            recipe["pathways"]["gene_sets"] = (
                self.pathways.sha256
            )  # what the file says, wherever it lies
        wording = load_prompts(prompts_path(self.recipe, self.folder)).texts()
        # Other versions of these may write other bytes for the same content.
        versions = [metadata.version(name) for name in ("numpy", "pandas", "pyarrow", "tokenizers")]
        facts: list[Any] = [
            _VERSION,
            LAYOUT,
            versions,
            recipe,
            self.recipe.split.fractions,
            wording,
            *more,
        ]
        if file is not None and index is not None:
            facts += [file.recipe.model_dump(mode="json", exclude={"data"}), file.study_of(None)]
            facts += [{study: self.splits[study] for study in index.donors}]
            texts = {s: self.abstracts.get(s) for s in index.donors}
            facts.append(hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest())
        return facts


def _key(facts: list[Any], *place: str | int) -> str:
    text = json.dumps([*facts, *place], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make_plan(
    recipe: CorpusRecipe,
    folder: Path,
    work: Path,
    mapped: Map,
    on_stage: OnStage,
    *,
    trial: bool = False,
) -> Plan:
    """Look at every source and decide what is built from it.

    Parameters
    ----------
    recipe
        What to build.
    folder
        Where the recipe's relative paths begin.
    work
        Where looks are kept.
    mapped
        Looks at several sources at a time.
    on_stage
        Told of progress.
    trial
        Do not hash the sources and do not ask the teacher; say what asking would take.

    Raises
    ------
    InputError
        A source cannot be read; all that cannot be are named.
    UsageError
        The recipe names something that is not there.
    """
    _check_prompts(recipe, folder)
    files = source_files(recipe, folder)
    looks: dict[str, SourceIndex] = {}
    progress = on_stage("Looking at the sources", len(files))
    problems = []
    # A single file is looked at here, while the processes that build it still start.
    look = mapped if len(files) > 1 else map_in_turn
    for outcome in look(partial(_look, work, trial), files):
        progress(1)
        if outcome.result is None:
            problems.append(str(outcome.error))
        else:
            looks[outcome.item.path] = outcome.result
    if problems:
        more = f" ({len(problems) - 1} more sources have problems)" if len(problems) > 1 else ""
        raise InputError(sorted(problems)[0] + more)
    sources: dict[str, tuple[SourceFile, SourceIndex]] = {}
    repeated = []
    for file in sorted(files, key=lambda f: f.path):
        index = looks[file.path]
        if index.sha256 in sources:
            repeated.append({"path": file.path, "same as": sources[index.sha256][0].path})
        else:
            sources[index.sha256] = (file, index)
    sources = dict(sorted(sources.items()))
    if not any(index.n_kept for _, index in sources.values()):
        keep = "; no cell passes 'keep'" if any(f.recipe.keep for f in files) else ""
        raise InputError(f"the sources hold no cell that can be used{keep}")
    donors = _donors(sources)
    splits, notes = _splits(recipe, donors)
    notes += [
        f"{r['path']}: holds the same bytes as {r['same as']} and is left out" for r in repeated
    ]
    notes += [
        f"{file.path}: none of its {index.n_cells:,} cells passes 'keep'"
        for file, index in sources.values()
        if index.n_cells and not index.n_kept
    ]
    abstracts, abstracts_sha, teacher = _abstracts(
        recipe, folder, set(donors), notes, on_stage, trial
    )
    vocabularies = {
        file.path: words_path(work, index.look).read_text("utf-8").split("\n")
        for file, index in sources.values()
    }
    words = sorted({w for own in vocabularies.values() for w in own})
    gene_sets = _gene_sets(recipe, folder)
    return Plan(
        recipe,
        folder,
        sources,
        repeated,
        splits,
        notes,
        gene_sets,
        abstracts,
        abstracts_sha,
        words,
        teacher,
        _pathways(recipe, folder, words, vocabularies),
    )


def _check_prompts(recipe: CorpusRecipe, folder: Path) -> None:
    """Refuse a prompt pack that lacks a task or would show an answer, before anything is read."""
    pack = load_prompts(prompts_path(recipe, folder))
    for task in recipe.tasks:
        TASKS[task].check_wording(pack.wording(task), f"prompts {recipe.prompts!r}, task {task}")


def prompts_path(recipe: CorpusRecipe, folder: Path) -> str:
    """Return the prompt pack, a path relative to the recipe made absolute."""
    built_in = recipe.prompts in ("c2s", "upstream")
    return recipe.prompts if built_in else str(folder / recipe.prompts)


def _look(work: Path, trial: bool, file: SourceFile) -> SourceIndex:
    return index_source(file, work, hashed=not trial)


def source_files(recipe: CorpusRecipe, folder: Path) -> list[SourceFile]:
    """Return the files that a recipe names, each once.

    Raises
    ------
    InputError
        A pattern matches nothing.
    UsageError
        Two sources of the recipe name the same file.
    """
    files: dict[str, SourceFile] = {}
    for source in recipe.sources:
        for path in expand(source.patterns, folder):
            shown = _beside(path, folder)
            if shown in files:
                raise UsageError(f"{shown}: is named by two sources of the recipe; name it once")
            files[shown] = SourceFile(shown, path, source)
    return list(files.values())


def _beside(path: str, folder: Path) -> str:
    """Return a path as seen from the recipe's folder where it lies in there, so that both can move together."""
    inside = Path(path).is_relative_to(folder)
    return str(Path(path).relative_to(folder)) if inside else path


def _donors(sources: Mapping[str, tuple[SourceFile, SourceIndex]]) -> dict[str, Counter[str]]:
    donors: dict[str, Counter[str]] = {}
    for _, index in sources.values():
        for study, counts in index.donors.items():
            donors.setdefault(study, Counter()).update(counts)
    return dict(sorted(donors.items()))


def _splits(
    recipe: CorpusRecipe, donors: Mapping[str, Counter[str]]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    held_out = set(recipe.split.held_out_studies)
    unknown = sorted(held_out - set(donors))
    if unknown:
        raise UsageError(
            f"held_out_studies names {unknown[0]!r}, which is no study of these sources; there are:"
            f" {listing(list(donors))}"
        )
    splits, few = {}, []
    for study, counts in donors.items():
        if study in held_out:
            splits[study] = dict.fromkeys(sorted(counts), HELD_OUT)
        elif len(counts) < 3:
            few.append(study)
            part = BY_CELL if recipe.split.few_donors == "cells" else "train"
            splits[study] = dict.fromkeys(sorted(counts), part)
        else:
            splits[study] = dict(
                sorted(
                    split_groups(
                        list(counts), recipe.split.fractions, recipe.seed, "donors", study
                    ).items()
                )
            )
    notes = []
    if few and recipe.split.few_donors == "cells":
        notes.append(
            "studies of fewer than three donors were split by cell, so their val and test cells come from donors that "
            f"are trained on ({len(few):,}): {listing(few)}"
        )
    elif few:
        notes.append(
            f"studies of fewer than three donors are trained on whole ({len(few):,}): {listing(few)}"
        )
    return splits, notes


def _abstracts(
    recipe: CorpusRecipe,
    folder: Path,
    studies: set[str],
    notes: list[str],
    on_stage: OnStage,
    trial: bool,
) -> tuple[dict[str, list[str]], str | None, dict[str, Any] | None]:
    """Return the texts of the abstracts of the studies that occur, paraphrased by the teacher where asked."""
    if recipe.abstracts is None:
        return {}, None, None
    path = folder / recipe.abstracts
    found = read_abstracts(path)
    here = {s: found[s] for s in sorted(studies & set(found))}
    if not here:
        notes.append(
            f"{recipe.abstracts} has the abstract of none of the studies: {listing(sorted(studies))}; it has: "
            f"{listing(sorted(found))}"
        )
    texts = {s: list(study.paraphrases) for s, study in here.items()}
    missing = {s: here[s].abstract for s, t in texts.items() if len(t) < recipe.paraphrases}
    estimate = None
    if missing and recipe.teacher is not None:
        estimate = _ask_teacher(recipe, folder, missing, texts, on_stage, trial)
    return {s: t or [here[s].abstract] for s, t in texts.items()}, sha256(path), estimate


def _ask_teacher(
    recipe: CorpusRecipe,
    folder: Path,
    missing: Mapping[str, str],
    texts: dict[str, list[str]],
    on_stage: OnStage,
    trial: bool,
) -> dict[str, Any] | None:
    """Add paraphrases to `texts`; in a trial return what asking for them would take instead."""
    from c2s.teachers.client import Teacher
    from c2s.teachers.paraphrase import paraphrase_requests, paraphrases

    assert recipe.teacher is not None
    teacher = Teacher(recipe.teacher, folder)
    estimate = teacher.estimate(paraphrase_requests(missing, recipe.paraphrases))
    if trial:
        return asdict(estimate)
    if estimate.requests:
        on_stage(f"Asking the teacher: {estimate}", 1)
    progress = on_stage("Paraphrasing abstracts", recipe.paraphrases * len(missing))
    for study, written in paraphrases(missing, recipe.paraphrases, teacher, progress).items():
        texts[study] = [*texts[study], *written][: recipe.paraphrases]
    return None


def _gene_sets(recipe: CorpusRecipe, folder: Path) -> dict[str, tuple[str, str, dict[str, str]]]:
    found = {}
    for path in expand(recipe.gene_sets, folder):
        names = [s.name for s in read_gmt(path)]  # first, because it says what is wrong with a file
        sha = sha256(path)
        parts = split_groups(names, recipe.split.fractions, recipe.seed, "gene sets", sha)
        found[sha] = (_beside(path, folder), path, parts)
    return dict(sorted(found.items()))


def _pathways(
    recipe: CorpusRecipe,
    folder: Path,
    words: Sequence[str],
    vocabularies: Mapping[str, Sequence[str]],
) -> PathwayFile | None:
    """Return the gene sets that are named before answers.

    Raises
    ------
    InputError
        They cannot be read, or too few have enough genes among those of a source; `vocabularies` holds the words of
        each.
    """
    wanted = recipe.pathways
    if wanted is None:
        return None
    path = str(folder / wanted.gene_sets)
    sets = read_gmt(path)

    def names_in(own: Sequence[str]) -> list[str]:
        vocabulary = GeneVocabulary.from_words(sorted(set(own)))
        return list(PathwaySets.of(sets, vocabulary, wanted.min_genes).names)

    try:
        for source, own in vocabularies.items():
            if (n := len(names_in(own))) < wanted.number:
                raise InputError(
                    f"{n} of its sets have {wanted.min_genes} genes or more among those of {source}, and "
                    f"{wanted.number} are to be named"
                )
        return PathwayFile(_beside(path, folder), path, sha256(path), names_in(words))
    except InputError as error:
        raise InputError(f"pathways.gene_sets: {wanted.gene_sets}: {error}") from error


# --- building ---------------------------------------------------------------------------------


def build_corpus(
    recipe_path: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    engine: str | None = None,
    on_stage: OnStage,
) -> dict[str, Any]:
    """Build a corpus, or go on with one that was begun.

    Parameters
    ----------
    recipe_path
        The recipe, a YAML file.
    out
        The corpus folder.
    workers
        Processes; by default one a core.
    engine
        Instead of the recipe's.
    on_stage
        Told of progress.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    C2SError
        Some units failed; the first is explained, the others are in `log.jsonl`. What was finished stays, and the
        same command goes on from there.
    """
    folder = Path(recipe_path).resolve().parent
    return build_from(
        read_recipe(recipe_path), folder, out, workers=workers, engine=engine, on_stage=on_stage
    )


def build_from(
    recipe: CorpusRecipe,
    folder: Path,
    out: str | Path,
    *,
    workers: int | None = None,
    engine: str | None = None,
    keep_looks: bool = False,
    on_stage: OnStage,
) -> dict[str, Any]:
    """Build a corpus from a recipe that was read; see `build_corpus`.

    Parameters
    ----------
    folder
        Where the recipe's relative paths begin.
    keep_looks
        Leave the folder `work` with what was found out about the sources, for another build of them.
    """
    out = Path(out)
    workers = workers or len(os.sched_getaffinity(0))
    refuse_foreign(out, CONTENTS)
    try:
        (out / "work").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: the folder cannot be made ({error.strerror})") from error
    with _lock(out):
        engine = engine or recipe.engine
        with processes(workers) as here:
            plan = make_plan(recipe, folder, out / "work", here, on_stage)
            _refuse_other_corpus(out, plan)
            # A manifest stands for a complete corpus, and up to here one that was there still is.
            (out / "manifest.json").unlink(missing_ok=True)
            tokenizer_sha = leave_for_units(plan, out)
            with started(engine, workers, here) as mapped:
                genes = _used_genes(plan, out, mapped, on_stage)
                units = plan.units(genes, tokenizer_sha)
                records = _map_units(out, units, mapped, on_stage)
        return _finish(plan, out, units, records, tokenizer_sha, keep_looks)


def _refuse_other_corpus(out: Path, plan: Plan) -> None:
    """Refuse a folder with a corpus of other sources: its shards would be removed at the end."""
    there = {path.stem.split("-")[0] for path in (out / "units").glob("[!.]*.json")}
    mine = {sha[:SHORT] for sha in (*plan.sources, *plan.gene_sets)}
    if there and not there & mine:
        raise UsageError(
            f"{out}: holds a corpus of other sources; give another folder with --out, or remove that one"
        )


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Let one build at a time write into a folder."""
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(open(out / "lock", "w"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{out}: another build is writing there; wait for it, or stop it"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{out / 'lock'}: cannot be written and locked ({error.strerror}); a corpus needs a folder of its own, "
                "on a file system that knows flock"
            ) from error
        yield


def leave_for_units(plan: Plan, out: Path) -> str:
    """Write the tokenizer and what units need to know into a corpus folder; return the tokenizer's SHA-256."""
    tokenizer_sha = _tokenizer(plan, out)
    _leave_shared(plan, out, tokenizer_sha)
    return tokenizer_sha


def _tokenizer(plan: Plan, out: Path) -> str:
    """Make the corpus's tokenizer; return the SHA-256 of its file."""
    recipe = plan.recipe
    if recipe.tokenizer == "small":
        backend = train_text_tokenizer(_texts(plan), recipe.small_tokens)
    else:
        local = plan.folder / recipe.tokenizer
        backend = load_tokenizer(local if local.exists() else recipe.tokenizer)
    vocabulary = GeneVocabulary.from_words(plan.words)
    if recipe.tokens == "genes":
        add_gene_tokens(backend, vocabulary)
    named = pathway_line(plan)
    if named is not None:  # says so where the tokenizer does not allow it
        line_constraint(CellTokenizer(backend, vocabulary, recipe.tokens), named)
    with atomic_directory(out / "tokenizer") as temporary:
        save_tokenizer(backend, temporary)
    with atomic_file(out / "genes.txt") as path:
        path.write_text("\n".join(plan.words), "utf-8")
    return sha256(out / "tokenizer" / "tokenizer.json")


def _texts(plan: Plan) -> list[str]:
    """Return the texts that a small tokenizer is trained on, the same for the same inputs in any order."""
    pack = load_prompts(prompts_path(plan.recipe, plan.folder))
    texts = [p.text for task in sorted(plan.recipe.tasks) for p in pack.wording(task).prompts]
    for name in ("organism", "tissue", "cell_type"):
        texts += sorted({v for _, index in plan.sources.values() for v in index.values[name]})
    texts += [t for study in sorted(plan.abstracts) for t in plan.abstracts[study]]
    if plan.pathways is not None:
        texts.append(line(plan.pathways.names))
    return texts + sorted({name for _, _, parts in plan.gene_sets.values() for name in parts})


def pathway_line(plan: Plan) -> PathwayLine | None:
    """Return what is named before answers, as models keep it; None for nothing."""
    wanted = plan.recipe.pathways
    if wanted is None or plan.pathways is None:
        return None
    return PathwayLine(names=plan.pathways.names, number=wanted.number, tasks=sorted(wanted.tasks))


def _leave_shared(plan: Plan, out: Path, tokenizer_sha: str) -> None:
    """Write what units need to know; see `c2s.corpus.unit.Shared`."""
    content = {
        "recipe": plan.recipe.deciding() | {"prompts": prompts_path(plan.recipe, plan.folder)},
        "splits": plan.splits,
        "tokenizer": tokenizer_sha,
        "sources": {
            sha: {
                "path": file.path,
                "resolved": file.resolved,
                "recipe": file.recipe.model_dump(mode="json"),
                "look": index.look,
                "stamp": stamp(file.resolved),
            }
            for sha, (file, index) in plan.sources.items()
        },
        "gene_sets": {sha: parts for sha, (_, _, parts) in plan.gene_sets.items()},
        "gene_set_files": {sha: resolved for sha, (_, resolved, _) in plan.gene_sets.items()},
    }
    if plan.pathways is not None:
        content["pathways"] = {
            "resolved": plan.pathways.resolved, "sha256": plan.pathways.sha256,
        }  # fmt: skip
    with atomic_file(out / "work" / "shared.json") as path:
        path.write_text(json.dumps(content, sort_keys=True, ensure_ascii=False), "utf-8")
    (out / "work" / "abstracts.arrow").unlink(missing_ok=True)
    if plan.abstracts:
        table = pa.table({"study": list(plan.abstracts), "texts": list(plan.abstracts.values())})
        with (
            atomic_file(out / "work" / "abstracts.arrow") as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)


def _used_genes(plan: Plan, out: Path, mapped: Map, on_stage: OnStage) -> dict[str, str]:
    """Count the cells of each gene where rare genes are left out; return a digest by source."""
    fewest = plan.recipe.quality.min_cells
    if fewest <= 1:
        return dict.fromkeys(plan.sources, "")
    paths = {
        sha: genes_path(out / "work", sha, file.recipe, plan.recipe.quality)
        for sha, (file, _) in plan.sources.items()
    }
    units = [u for u in plan.units(dict.fromkeys(plan.sources, ""), "") if u.kind == "cells"]
    open_units = [u for u in units if not paths[u.sha256].is_file()]
    progress = on_stage("Counting the cells of each gene", len(units))
    progress(len(units) - len(open_units))
    count = partial(count_genes, str(out), shared_digest(out))
    left = Counter(u.sha256 for u in open_units)
    counts: dict[str, np.ndarray] = {}
    failed = []
    for outcome in mapped(count, open_units):
        progress(1)
        sha = outcome.item.sha256
        if outcome.result is None:
            failed.append((outcome.item, str(outcome.error)))
            continue
        counts[sha] = counts.get(sha, 0) + outcome.result
        left[sha] -= 1
        if not left[sha]:  # kept at once: neither a kill nor the number of sources matters then
            with atomic_file(paths[sha]) as path:
                np.save(path, counts.pop(sha) >= fewest)
    _raise_failures(out, failed, len(units))
    return {sha: sha256(path) for sha, path in paths.items()}


def _map_units(
    out: Path, units: Sequence[Unit], mapped: Map, on_stage: OnStage
) -> dict[str, UnitRecord]:
    progress = on_stage("Building", sum(u.stop - u.start for u in units))
    build = partial(build_unit, str(out), shared_digest(out))
    records: dict[str, UnitRecord] = {}
    failed = []
    for outcome in mapped(build, units):
        progress(outcome.item.stop - outcome.item.start)
        if outcome.result is None:
            failed.append((outcome.item, str(outcome.error)))
        else:
            records[outcome.item.name] = outcome.result
    _raise_failures(out, failed, len(units))
    return records


def _raise_failures(out: Path, failed: Sequence[tuple[Unit, str]], total: int) -> None:
    if not failed:
        return
    # Where the disk is full, which may be what failed, the first failure is told all the same.
    with suppress(OSError), open(out / "log.jsonl", "a", encoding="utf-8") as log:
        for unit, error in failed:
            log.write(json.dumps({"unit": unit.name, "error": error}, ensure_ascii=False) + "\n")
    first = min(failed, key=lambda f: f[0].name)[1]
    rest = f"; {len(failed) - 1:,} more in {out / 'log.jsonl'}" if len(failed) > 1 else ""
    raise C2SError(
        f"{first} ({len(failed):,} of {total:,} pieces of work failed{rest}; the others are kept: mend it and run the "
        "same command again)"
    )


# --- the close --------------------------------------------------------------------------------


def _finish(
    plan: Plan,
    out: Path,
    units: Sequence[Unit],
    records: Mapping[str, UnitRecord],
    tokenizer_sha: str,
    keep_looks: bool,
) -> dict[str, Any]:
    _remove_strangers(out, records)
    manifest = _manifest(plan, [records[u.name] for u in units], tokenizer_sha)
    if not manifest["cells"]:
        raise InputError(
            f"no cell of the sources is left ({_reasons(manifest['dropped']['cells'])}); change 'quality' or 'keep'"
        )
    with atomic_file(out / "recipe.yaml") as path:
        path.write_text(
            yaml.safe_dump(plan.recipe.deciding(), sort_keys=False, allow_unicode=True), "utf-8"
        )
    with atomic_file(out / "README.md") as path:
        path.write_text(_card(manifest), "utf-8")
    manifest["other files"] = _other_files(out)
    manifest["digest"] = manifest_digest(manifest)
    if not keep_looks:
        shutil.rmtree(out / "work")
    with atomic_file(out / "manifest.json") as path:
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "log.jsonl").unlink(missing_ok=True)
    return manifest


def _other_files(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that is no shard; not of the card, which people edit."""
    paths = [
        out / "recipe.yaml",
        out / "genes.txt",
        *(out / "tokenizer").iterdir(),
        *(out / "units").iterdir(),
    ]
    return {str(p.relative_to(out)): sha256(p) for p in sorted(paths)}


def _remove_strangers(out: Path, records: Mapping[str, UnitRecord]) -> None:
    """Remove shards of sources that are no longer in the recipe, and what a killed run left half written."""
    known = {name for record in records.values() for name in record.files}
    known |= {f"units/{name}.json" for name in records}
    for folder in ("cells", "tokens", "units"):
        for path in sorted((out / folder).rglob("*")):
            if path.is_file() and str(path.relative_to(out)) not in known:
                path.unlink()
    for folder in ("cells", "tokens"):
        for path in sorted((out / folder).glob("*")):
            with suppress(OSError):  # a split that has files stays
                path.rmdir()
    for path in [*out.glob(".c2s-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _manifest(plan: Plan, records: Sequence[UnitRecord], tokenizer_sha: str) -> dict[str, Any]:
    sources = [
        {
            "path": file.path,
            "sha256": sha,
            "cells": index.n_cells,
            "genes": index.n_genes,
            "studies": sorted(index.donors),
            "cells without": {k: n for k, n in index.without.items() if n},
        }
        for sha, (file, index) in plan.sources.items()
    ]
    named = pathway_line(plan)
    pathways = {}
    if named is not None and plan.pathways is not None:
        facts = {"path": plan.pathways.path, "sha256": plan.pathways.sha256}
        pathways = {"pathways": {**facts, **named.model_dump()}}
    return {
        "c2s": _VERSION,
        "layout": LAYOUT,
        "versions": {name: metadata.version(name) for name in LIBRARIES}
        | {"python": platform.python_version()},
        "recipe": plan.recipe.deciding(),
        "sources": sources,
        "gene sets": [
            {"path": path, "sha256": sha, "sets": dict(Counter(parts.values()))}
            for sha, (path, _, parts) in plan.gene_sets.items()
        ],
        "abstracts": None
        if plan.abstracts_sha256 is None
        else {
            "path": plan.recipe.abstracts,
            "sha256": plan.abstracts_sha256,
            "studies": len(plan.abstracts),
            "texts": sum(map(len, plan.abstracts.values())),
        },
        **pathways,
        "tokenizer": {"sha256": tokenizer_sha, "mode": plan.recipe.tokens},
        "genes": len(plan.words),
        "splits": plan.splits,
        "notes": [*plan.notes, *_empty_tasks(plan.recipe, records)],
        "cells": _in_order(_total([r.cells for r in records])),
        "samples": _by_split([r.samples for r in records]),
        "tokens": _by_split([r.tokens for r in records]),
        "sequences": _in_order(_total([r.sequences for r in records])),
        "dropped": {
            "sources": plan.repeated,
            "cells": _total([r.dropped_cells for r in records]),
            "samples": _total([r.dropped_samples for r in records]),
        },
        "files": {name: facts for r in records for name, facts in r.files.items()},
    }


def _empty_tasks(recipe: CorpusRecipe, records: Sequence[UnitRecord]) -> list[str]:
    """Return a note of the tasks of which there is no sample, and why."""
    drawn = {t for r in records for by_task in r.samples.values() for t in by_task}
    dropped = _total([r.dropped_samples for r in records])
    missing: dict[str, list[str]] = {}
    for task in recipe.task_ids("single", "multi", "gene_set"):
        if task not in drawn:
            why = {r.partition(": ")[2]: n for r, n in dropped.items() if r.startswith(f"{task}: ")}
            none = "no gene sets" if TASKS[task].kind == "gene_set" else "too few were asked for"
            missing.setdefault(max(why, key=lambda r: why[r]) if why else none, []).append(task)
    told = "; ".join(f"{listing(tasks)} ({reason})" for reason, tasks in missing.items())
    return [f"there is no sample of {told}"] if told else []


def _reasons(counts: Mapping[str, int]) -> str:
    return listing([f"{n:,} {reason}" for reason, n in counts.items()])


def _total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {part: counts[part] for part in CORPUS_PARTS if part in counts}


def _by_split(counts: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    return {
        part: total
        for part in CORPUS_PARTS
        if (total := _total([c[part] for c in counts if part in c]))
    }


_CARD = """---
configs:
{configs}
---

# A corpus of cell sentences

Made by c2s-toolkit {version}. `cells/` holds a row a cell with its sentence and what is known of it (Parquet);
`tokens/` holds the training samples (Arrow, see the documentation of `c2s.corpus`); `manifest.json` says what went in,
what came out and what was dropped.

| split | cells | samples | tokens |
| --- | --- | --- | --- |
{rows}
"""


def _card(manifest: Mapping[str, Any]) -> str:
    """Return the card with which `datasets.load_dataset` finds the splits."""
    names = {"val": "validation"}
    configs = ["- config_name: cells", "  data_files:"]
    for part in manifest["cells"]:
        configs += [f"  - split: {names.get(part, part)}", f"    path: cells/{part}/*.parquet"]
    rows = [
        f"| {part} | {manifest['cells'].get(part, 0):,} | {sum(manifest['samples'].get(part, {}).values()):,} "
        f"| {sum(manifest['tokens'].get(part, {}).values()):,} |"
        for part in CORPUS_PARTS
        if part in manifest["cells"] or part in manifest["samples"]
    ]
    return _CARD.format(configs="\n".join(configs), version=manifest["c2s"], rows="\n".join(rows))
