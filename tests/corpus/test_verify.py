"""Every fault that is planted in a corpus is named in one line, and an intact one has none."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.corpus.conftest import quiet

from c2s.common.errors import InputError
from c2s.common.files import sha256
from c2s.corpus.show import manifest_digest
from c2s.corpus.verify import verify_corpus


def verify(folder, workers=1):
    return verify_corpus(folder, workers=workers, on_unit=quiet("", 0))


def only(folder, *parts):
    """Check that exactly one problem is found, in one line that names these parts."""
    problems = verify(folder)
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    for part in parts:
        assert str(part) in problems[0], problems
    return problems[0]


def read(folder):
    return json.loads((folder / "manifest.json").read_text())


def seal(folder, change=None):
    """Write hashes and sizes anew into unit records and the manifest, so that only a look at the content tells."""
    manifest = read(folder)
    for path in (folder / "units").glob("*.json"):
        record = json.loads(path.read_text())
        for name, facts in record["files"].items():
            if (folder / name).is_file():
                facts |= {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
                manifest["files"][name] = facts
        path.write_text(json.dumps(record, sort_keys=True, ensure_ascii=False))
    if change is not None:
        change(manifest)
    for name in manifest["other files"]:
        manifest["other files"][name] = sha256(folder / name)
    manifest["digest"] = manifest_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(path, change):
    """Change the columns of a token shard, given as lists, and write it as it was."""
    with pa.OSFile(str(path), "rb") as handle:
        table = pa.ipc.open_file(handle.read()).read_all()
    columns = table.to_pydict()
    change(columns)
    arrays = [
        pa.array(columns[f.name], f.type.value_type).dictionary_encode().cast(f.type)
        if pa.types.is_dictionary(f.type)
        else pa.array(columns[f.name], f.type)
        for f in table.schema
    ]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=table.schema))


def shard_of(folder, n_min=1, **wanted):
    """Return a token shard with a sample of a task, and the number of the sample."""
    for path in sorted((folder / "tokens").rglob("*.arrow")):
        with pa.OSFile(str(path), "rb") as handle:
            table = pa.ipc.open_file(handle.read()).read_all()
        for i, (task, cells) in enumerate(
            zip(table["task"].to_pylist(), table["cells"].to_pylist(), strict=True)
        ):
            if (
                task == wanted.get("task", task)
                and len(cells) >= n_min
                and path.parent.name == wanted.get("split", path.parent.name)
            ):
                return path, i
    raise AssertionError(wanted)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["corpus", "gene_corpus"])
def test_an_intact_corpus_has_no_problems(request, fixture):
    assert verify(request.getfixturevalue(fixture)) == []


@pytest.mark.slow
def test_with_two_processes(corpus, changeable):
    assert verify(corpus, workers=2) == []
    flip(sorted(changeable.glob("tokens/train/*"))[0])
    assert len(verify(changeable, workers=2)) == 1


def test_a_corpus_can_move_and_its_card_be_edited(changeable, tmp_path):
    (changeable / "README.md").write_text("# Mine")
    moved = shutil.move(changeable, tmp_path / "elsewhere")
    assert verify(moved) == []


def test_sealing_a_corpus_changes_nothing(changeable):
    before = read(changeable)
    seal(changeable)
    assert read(changeable) == before
    assert verify(changeable) == []


def test_every_unit_is_told_of(corpus):
    told = []
    verify_corpus(corpus, workers=1, on_unit=told.append)
    assert sum(told) == len(list((corpus / "units").glob("*.json")))


# --- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "cells/train/*",
        "tokens/val/*",
        "units/*",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "genes.txt",
        "recipe.yaml",
    ],
)
def test_a_flipped_byte(changeable, kind):
    victim = sorted(changeable.glob(kind))[-1]
    flip(victim)
    only(changeable, f"{victim}: its bytes are not those that were written")


@pytest.mark.parametrize(
    "kind", ["cells/train/*", "tokens/val/*", "units/*", "tokenizer/tokenizer.json", "genes.txt"]
)
def test_a_missing_file(changeable, kind):
    victim = sorted(changeable.glob(kind))[0]
    victim.unlink()
    only(changeable, f"{victim}: is listed in the manifest and is not there")


@pytest.mark.parametrize("folder", ["cells/train", "tokens", "units", "tokenizer"])
def test_a_file_that_does_not_belong_there(changeable, folder):
    stranger = changeable / folder / "stranger.arrow"
    stranger.write_bytes(b"x")
    only(changeable, f"{stranger}: is not listed in the manifest")


def test_a_manifest_that_was_changed(changeable):
    path = changeable / "manifest.json"
    path.write_text(path.read_text().replace("study A", "study X", 1))
    assert any(f"{path}: its bytes" in p for p in verify(changeable))
    bare = {k: v for k, v in read(changeable).items() if k != "digest"}
    path.write_text(json.dumps(bare))
    with pytest.raises(InputError, match="lacks the hashes"):
        verify(changeable)
    path.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        verify(changeable)
    path.write_text('{"files": {}}')
    with pytest.raises(InputError, match="no manifest of a corpus"):
        verify(changeable)
    path.unlink()
    with pytest.raises(InputError, match="is no corpus"):
        verify(changeable)


def test_several_faults_are_all_told(changeable):
    victims = [sorted(changeable.glob(k))[0] for k in ("cells/train/*", "tokens/test/*", "units/*")]
    for victim in victims:
        flip(victim)
    problems = verify(changeable)
    assert len(problems) == 3
    assert all(any(str(v) in p for p in problems) for v in victims)


# --- cells ------------------------------------------------------------------------------------


def move_cells(folder, study, to, which):
    """Move cells of a study into another split of their unit; return the rows."""
    for path in sorted((folder / "cells").rglob("*.parquet")):
        there = folder / "cells" / to / path.name
        table = pq.read_table(path)
        rows = [i for i, s in enumerate(table["study"].to_pylist()) if s == study]
        if path.parent.name == to or not there.is_file() or not rows:
            continue
        chosen = [rows[k] for k in which(rows, table)]
        stay = np.setdiff1d(np.arange(len(table)), chosen)
        other = pa.concat_tables([pq.read_table(there), table.take(chosen)])
        pq.write_table(table.take(stay), path)
        pq.write_table(other, there)
        seal(folder)
        return [f"{table['cell_id'][i].as_py()}" for i in chosen]
    raise AssertionError


@pytest.mark.parametrize("study", ["study A", "study B"], ids=["split by donor", "split by cell"])
def test_a_cell_in_another_split(changeable, study):
    (cell,) = move_cells(changeable, study, "test", lambda rows, table: [0])
    only(changeable, cell, "stands in test", "1 such")


def test_a_donor_in_two_splits(changeable):
    def half(rows, table):
        donors = [table["donor"][i].as_py() for i in rows]
        return [k for k, d in enumerate(donors) if d == donors[0]][::2]

    cells = move_cells(changeable, "study A", "val", half)
    assert len(cells) > 2
    only(changeable, "of study A stands in val", f"{len(cells)} such")


def test_a_cell_in_two_splits(changeable):
    paths = {
        p.parent.name: p
        for p in sorted(changeable.glob("cells/*/*"))
        if p.stem.endswith("-0000000000")
    }
    train = pq.read_table(paths["train"])
    both = pa.concat_tables([pq.read_table(paths["val"]), train.slice(3, 1)])
    pq.write_table(both, paths["val"])
    seal(changeable)
    only(changeable, train["cell_id"][3].as_py(), "twice", "train", "val")


def test_a_cell_of_another_name(changeable):
    path = sorted(changeable.glob("cells/train/*"))[0]
    table = pq.read_table(path)
    ids = ["0123456789ab:7", *table["cell_id"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "cell_id", pa.array(ids)), path)
    seal(changeable)
    only(changeable, "0123456789ab:7", path.name)


def test_a_donor_and_a_study_that_the_manifest_does_not_know(changeable):
    def forget(manifest):
        del manifest["splits"]["study A"]["d1"]

    seal(changeable, forget)
    assert all("donor d1 of study A" in p and "no split" in p for p in verify(changeable))
    seal(changeable, lambda manifest: manifest["splits"].pop("study B"))
    assert any("of study B" in p for p in verify(changeable))


def test_a_parquet_file_of_something_else(changeable):
    path = sorted(changeable.glob("cells/train/*"))[0]
    pq.write_table(pa.table({"x": [1]}), path)
    seal(changeable)
    only(changeable, path.name)
    path.write_bytes(b"nothing")
    seal(changeable)
    only(changeable, path.name)


def test_equal_cells_in_two_splits_through_a_copied_source(
    write_recipe, build, source_folder, tmp_path
):
    import anndata as ad

    again = ad.read_h5ad(source_folder / "b.h5ad")
    again.obs["study"] = "study B again"
    again.write_h5ad(tmp_path / "again.h5ad")
    tasks = {"cell_type": None}
    recipe = write_recipe(
        "copied", sources=[{"data": ["b.h5ad", str(tmp_path / "again.h5ad")]}], tasks=tasks, abstracts=None,
        gene_sets=[], split={}, unit_cells=4096,
    )  # fmt: skip
    copied = build(recipe)
    split = {}
    for path in sorted(copied.glob("cells/*/*")):
        for content in pq.read_table(path)["content"].to_pylist():
            split.setdefault(content, []).append(path.parent.name)
    assert all(len(s) == 2 for s in split.values())
    apart = sum(len(set(s)) == 2 for s in split.values())
    assert apart > 10
    only(copied, f"{apart:,} cells have the same counts as a cell of another split", "'keep'")


def test_equal_cells_are_found_in_any_number_of_passes(changeable, monkeypatch):
    from c2s.corpus import verify as module

    path = sorted(changeable.glob("cells/train/*"))[0]
    other = sorted(changeable.glob("cells/val/*"))[-1]
    content = pq.read_table(path)["content"].slice(0, 3)
    table = pq.read_table(other)
    at = table.schema.get_field_index("content")
    changed = pa.concat_arrays(
        [content.combine_chunks(), table["content"].combine_chunks().slice(3)]
    )
    pq.write_table(table.set_column(at, "content", changed), other)
    seal(changeable)
    first = only(changeable, "3 cells have the same counts")
    for most in (200, 50, 7):
        monkeypatch.setattr(module, "_FINGERPRINTS", most)
        assert only(changeable, "3 cells have the same counts")[:40] == first[:40]


# --- tokens -----------------------------------------------------------------------------------


def change_sample(folder, change, **wanted):
    """Change the columns of one sample; return its shard."""
    path, i = shard_of(folder, **wanted)
    rewrite(path, lambda columns: change(columns, i))
    seal(folder)
    return path, i


def test_a_sample_longer_than_the_context(changeable):
    def longer(columns, i):
        columns["tokens"][i] = columns["tokens"][i][:1] * 900 + columns["tokens"][i][1:]

    path, i = change_sample(changeable, longer)
    only(changeable, path, f"sample {i} is longer than the context of 900 tokens (1 such)")


def test_a_sample_without_end_of_text(changeable):
    def cut(columns, i):
        columns["tokens"][i][-1] = 5

    path, i = change_sample(changeable, cut)
    only(changeable, path, f"sample {i} does not end in end-of-text (1 such)")


@pytest.mark.parametrize("n", [0, 1])
def test_a_sample_of_no_tokens(changeable, n):
    def empty(columns, i):
        columns["tokens"][i] = columns["tokens"][i][:n]

    path, i = change_sample(changeable, empty)
    only(changeable, path, f"sample {i} has no prompt or no response")


@pytest.mark.parametrize("at", [0, -2, -1, 10_000])
def test_a_prompt_length_that_cannot_be(changeable, at):
    def move(columns, i):
        n = len(columns["tokens"][i])
        columns["prompt_length"][i] = at if at >= 0 else n + 1 + at

    path, i = change_sample(changeable, move)
    only(changeable, path, f"sample {i} has no prompt or no response")


def test_a_token_that_there_is_not(changeable):
    def large(columns, i):
        columns["tokens"][i][0] = 60_000

    path, i = change_sample(changeable, large)
    only(changeable, path, f"sample {i} has a token that the tokenizer does not have")


def test_a_sequence_that_is_too_long(changeable):
    def together(columns, i):
        columns["sequence"] = [0] * len(columns["sequence"])

    path, _ = change_sample(changeable, together)
    only(changeable, path, "a packed sequence is longer than the context")


def test_a_sequence_more_than_the_manifest_says(changeable):
    def apart(columns, i):
        columns["sequence"] = list(range(len(columns["sequence"])))

    change_sample(changeable, apart)
    only(changeable, "counts of sequences")


@pytest.mark.parametrize("task", ["cell_type", "mc_lm"])
def test_a_sample_that_uses_a_cell_of_another_split(changeable, task):
    path, i = shard_of(changeable, task=task, split="train")
    start = pq.read_table(changeable / "cells" / "train" / f"{path.stem}.parquet")[
        "row"
    ].to_pylist()
    other = next(r for r in range(start[0], start[0] + 128) if r not in start)

    def foreign(columns, i):
        columns["cells"][i] = [other, *columns["cells"][i][1:]]

    change_sample(changeable, foreign, task=task, split="train")
    only(changeable, path, f"sample {i} uses a cell that is not in train (1 such)")


def test_a_sample_of_two_donors(changeable):
    path, i = shard_of(changeable, task="mc_lm", split="train", n_min=2)
    table = pq.read_table(changeable / "cells" / "train" / f"{path.stem}.parquet").to_pylist()
    group = {r["row"]: tuple(r[f] for f in ("study", "donor", "tissue")) for r in table}

    def mix(columns, i):
        first, *rest = columns["cells"][i]
        other = next(r for r in group if group[r] != group[first])
        columns["cells"][i] = [first, other, *rest[1:]]

    change_sample(changeable, mix, task="mc_lm", split="train", n_min=2)
    only(changeable, path, f"sample {i} mixes donors or tissues (1 such)")


def test_a_sample_that_repeats_a_cell(changeable):
    def repeat(columns, i):
        columns["cells"][i][1] = columns["cells"][i][0]

    path, i = change_sample(changeable, repeat, task="tissue", n_min=2)
    only(changeable, path, f"sample {i} repeats a cell (1 such)")


@pytest.mark.parametrize("task", ["cell_type", "mc_lm", "gene_set_enum"])
def test_a_sample_of_a_number_of_cells_that_cannot_be(changeable, task):
    path, i = shard_of(changeable, task=task, n_min=0)

    def other(columns, i):
        columns["cells"][i] = [] if columns["cells"][i] else [0]

    change_sample(changeable, other, task=task, n_min=0)
    problems = verify(changeable)
    assert any(
        f"{path}: sample {i} has a number of cells that its task does not take" in p
        for p in problems
    )
    assert len(problems) == (2 if task == "gene_set_enum" else 1)  # that cell is in no split


def test_a_task_that_there_is_not(changeable):
    def rename(columns, i):
        columns["task"] = ["poetry" if k == i else t for k, t in enumerate(columns["task"])]

    path, i = change_sample(changeable, rename)
    only(changeable, path, f"sample {i} has no task")


def test_a_shard_of_another_split(changeable):
    path, _ = shard_of(changeable, split="train")
    other = changeable / "tokens" / "val" / path.name
    assert other.is_file()
    shutil.copy(path, other)
    seal(changeable)
    only(changeable, other, "for another split")


def test_a_shard_that_is_none(changeable):
    path, _ = shard_of(changeable)
    path.write_bytes(b"ARROW1 and no more")
    seal(changeable)
    only(changeable, path, "cannot be read as a token shard")


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cells", "sequences", "samples", "tokens"])
def test_counts_that_were_changed(changeable, name):
    def more(manifest):
        if name in ("cells", "sequences"):
            manifest[name]["val"] += 1
        else:
            manifest[name]["val"]["cell_type"] -= 1

    seal(changeable, more)
    only(changeable, "manifest.json", f"counts of {name}")


def test_what_is_counted_is_what_is_there(corpus):
    manifest = read(corpus)
    for part, n in manifest["cells"].items():
        assert n == sum(pq.read_metadata(p).num_rows for p in corpus.glob(f"cells/{part}/*"))
    for part, by_task in manifest["samples"].items():
        tables = [
            pa.ipc.open_file(pa.memory_map(str(p))).read_all()
            for p in sorted(corpus.glob(f"tokens/{part}/*"))
        ]
        tasks = [t for table in tables for t in table["task"].to_pylist()]
        assert by_task == {t: tasks.count(t) for t in sorted(set(tasks))}
        tokens = [n for table in tables for n in pc.list_value_length(table["tokens"]).to_pylist()]
        for task, n in manifest["tokens"][part].items():
            assert n == sum(k for t, k in zip(tasks, tokens, strict=True) if t == task)
