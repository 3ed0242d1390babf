"""What people are shown of a corpus is what is in it."""

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from c2s.common.errors import InputError, UsageError
from c2s.corpus.shards import TokenShard
from c2s.corpus.show import (
    _shuffled,
    corpus_tokenizer,
    manifest_digest,
    read_manifest,
    show_samples,
    statistics,
)
from c2s.tasks.registry import TASKS


@pytest.fixture(scope="module")
def counted(corpus):
    """Samples and tokens by split and task, sequences by split, counted in the shards."""
    samples, tokens, sequences = Counter(), Counter(), Counter()
    for path in corpus.glob("tokens/*/*.arrow"):
        shard, part = TokenShard(path), path.parent.name
        sequences[part] += shard.n_sequences
        for task, length in zip(
            shard.column("task").to_pylist(), shard.lengths().tolist(), strict=True
        ):
            samples[part, task] += 1
            tokens[part, task] += length
    return samples, tokens, sequences


def test_statistics_are_those_of_the_files(corpus, counted):
    found = statistics(corpus)
    samples, tokens, sequences = counted
    assert {(p, t): n for p, by in found["samples"].items() for t, n in by.items()} == samples
    assert {(p, t): n for p, by in found["tokens"].items() for t, n in by.items()} == tokens
    assert found["sequences"] == sequences
    cells = {}
    for path in corpus.glob("cells/*/*"):
        table = pq.read_table(path, columns=["cell_type", "tissue", "study"]).to_pydict()
        for name, values in table.items():
            cells.setdefault(path.parent.name, {}).setdefault(name, Counter()).update(
                v for v in values if v
            )
        cells[path.parent.name].setdefault("n", Counter())[""] += len(values)
    assert found["cells"] == {p: c.pop("n")[""] for p, c in cells.items()}
    assert found["labels"] == cells
    assert found["bytes"] == sum(
        p.stat().st_size for k in ("cells", "tokens") for p in (corpus / k).rglob("*.*")
    )
    for part, fill in found["fill"].items():
        whole = sum(n for (p, _), n in tokens.items() if p == part)
        assert fill == pytest.approx(whole / (sequences[part] * 900))
        assert 0 < fill <= 1


def test_the_commonest_label_stands_first(corpus):
    for fields in statistics(corpus)["labels"].values():
        for counts in fields.values():
            assert list(counts.values()) == sorted(counts.values(), reverse=True)


# --- samples ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells_of(corpus):
    found = {}
    for path in corpus.glob("cells/*/*"):
        for row in pq.read_table(path).to_pylist():
            found[row["cell_id"]] = row
    return found


@pytest.mark.parametrize("fixture", ["corpus", "gene_corpus"])
@pytest.mark.parametrize("task", list(TASKS))
def test_a_sample_as_text_is_about_its_cells(request, fixture, task, cells_of):
    corpus = request.getfixturevalue(fixture)
    shown = show_samples(corpus, 4, task=task)
    assert len(shown) == 4
    for s in shown:
        assert s.task == task
        assert s.prompt == s.prompt.rstrip()
        assert "<|endoftext|>" not in s.prompt + s.response
        if TASKS[task].kind == "gene_set":
            name = s.response if task == "gene_set_name" else s.prompt
            genes = s.prompt if task == "gene_set_name" else s.response
            assert "SET" in name
            assert all(g in genes.split() for g in ("INS", "GCG", "SST")) or ":" in genes
            assert s.cells == []
            continue
        cells = [cells_of[f"{s.source}:{row}"] for row in s.cells]
        assert {c["study"] for c in cells} == {s.study}
        assert "Homo sapiens" in s.prompt or TASKS[task].kind == "multi"
        answer = {"cell_type": cells[0]["cell_type"], "tissue": cells[0]["tissue"]}.get(task)
        if answer:
            assert s.response == answer
        if task == "cond_cell":
            assert cells[0]["cell_type"] in s.prompt
        if task == "cond_sample_tissue":
            assert cells[0]["tissue"] in s.prompt
        if task in ("sample_cell_types", "cond_sample_cell_type"):
            place = s.response if task == "sample_cell_types" else s.prompt
            assert all(c["cell_type"] in place for c in cells)
        if task in ("nl_interpretation", "cond_sample_abstract"):
            assert "islet" in (s.response if task == "nl_interpretation" else s.prompt).lower()
        # The first genes of each cell are those of its sentence.
        genes = s.response if TASKS[task].generates else s.prompt
        for c in cells:
            assert " ".join(c["cell_sentence"].split()[:20]) in genes


def test_each_sample_is_shown_once_and_no_more_than_there_are(corpus, counted):
    shown = show_samples(corpus, 10**6, task="tissue", split="val")
    assert len(shown) == counted[0]["val", "tissue"] > 0
    # Two samples can be of the same cells and wording, so of the same text; whole rows differ in their cells.
    assert {(s.split, s.task) for s in shown} == {("val", "tissue")}
    everything = show_samples(corpus, 10**6, split="val")
    assert Counter(s.task for s in everything) == Counter(
        {t: n for (p, t), n in counted[0].items() if p == "val"}
    )
    assert sum(s.n_tokens for s in everything) == sum(
        n for (p, _), n in counted[1].items() if p == "val"
    )


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_shuffled_numbers_come_once_each(n):
    assert sorted(_shuffled(n, np.random.default_rng(0))) == list(range(n))


def test_every_order_of_three_is_as_likely():
    orders = Counter(tuple(_shuffled(3, np.random.default_rng(s))) for s in range(1200))
    assert len(orders) == 6
    assert min(orders.values()) > 150


def test_a_few_of_very_many_are_drawn_at_once():
    found = list(itertools.islice(_shuffled(10**12, np.random.default_rng(0)), 5))
    assert len(set(found)) == 5


def test_samples_are_drawn_from_everywhere_by_the_seed(corpus):
    first = show_samples(corpus, 40, seed=1)
    assert show_samples(corpus, 40, seed=1) == first
    assert show_samples(corpus, 10, seed=1) == first[:10]
    assert show_samples(corpus, 40, seed=2) != first
    assert len({s.split for s in first}) >= 3
    assert len({s.task for s in first}) >= 6
    json.dumps([dataclasses.asdict(s) for s in first])


def test_a_choice_that_there_is_not(corpus):
    with pytest.raises(UsageError, match="no task 'tisue'; it has: .*tissue"):
        show_samples(corpus, task="tisue")
    with pytest.raises(UsageError, match="no split 'dev'; it has: train, val, test, held_out"):
        show_samples(corpus, split="dev")
    assert show_samples(corpus, task="gene_set_name", split="held_out") == []


# --- the manifest -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is no manifest of a corpus"),
        ("3", "is no manifest of a corpus"),
        ('{"seconds": 3}', "is no manifest of a corpus"),
        ('{"layout": 99, "recipe": {}, "files": {}}', "layout 99; this version reads layout 1"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, content, says):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path / "manifest.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_tells_when_it_was_changed(corpus):
    manifest = read_manifest(corpus)
    assert manifest["digest"] == manifest_digest(manifest)
    assert manifest_digest(dict(reversed(manifest.items()))) == manifest["digest"]
    assert manifest_digest(manifest | {"genes": 3}) != manifest["digest"]


def test_a_corpus_that_is_not_complete(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError, match="not complete; run c2s corpus build again"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="is no corpus"):
        statistics(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["genes.txt", "tokenizer/tokenizer.json"])
def test_a_corpus_that_lacks_a_file(changeable, name):
    (changeable / name).unlink()
    with pytest.raises(InputError) as caught:
        show_samples(changeable, 1)
    assert name.split("/")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_damaged(changeable):
    path = next((changeable / "units").iterdir())
    path.write_text("{")
    with pytest.raises(InputError, match=path.name):
        statistics(changeable)


def test_the_tokenizer_knows_every_gene(corpus, gene_corpus):
    for folder in (corpus, gene_corpus):
        manifest = read_manifest(folder)
        tokenizer = corpus_tokenizer(folder, manifest)
        assert len(tokenizer.vocabulary) == manifest["genes"]
        assert tokenizer.mode == manifest["tokenizer"]["mode"]
