"""The reader gives every item once, in an order that anything can resume and nobody can tell from chance."""

import itertools
import json
import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from c2s.common.errors import InputError, UsageError
from c2s.corpus import reader as module
from c2s.corpus.reader import EpochOrder, ShardReader, permuted
from c2s.corpus.shards import TokenShard
from c2s.tasks.registry import TASKS

KEYS = np.random.default_rng(0).integers(0, 1 << 64, 8, dtype=np.uint64)


def ids(items):
    """What tells items apart: their tokens."""
    return [item["input_ids"].numpy().tobytes() for item in items]


def as_list(batch):
    return batch


def shards(folder, split="train"):
    return [TokenShard(p) for p in sorted((folder / "tokens" / split).glob("*.arrow"))]


# --- the order --------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_has_every_number_once(n, key):
    out = permuted(np.arange(n), n, KEYS ^ np.uint64(key))
    assert sorted(out.tolist()) == list(range(n))
    some = np.arange(0, n, 7)
    np.testing.assert_array_equal(permuted(some, n, KEYS ^ np.uint64(key)), out[::7])


def test_a_permutation_of_many_numbers_is_found_at_any_place():
    n = 150_000_000_000
    places = np.array([0, 1, n // 2, n - 1])
    out = permuted(places, n, KEYS)
    assert ((out >= 0) & (out < n)).all()
    assert len(set(out.tolist())) == 4


def test_all_permutations_of_four_are_equally_likely():
    rng = np.random.default_rng(1)
    found = Counter(
        tuple(permuted(np.arange(4), 4, rng.integers(0, 1 << 64, 8, dtype=np.uint64)).tolist())
        for _ in range(240)
    )
    assert len(found) == 24
    assert chisquare(list(found.values())).pvalue > 1e-3


def test_neighbours_of_a_permutation_are_independent():
    # 12 × 12 cells: which twelfth a number and its successor go to.
    n = 144_000
    out = permuted(np.arange(n), n, KEYS) * 12 // n
    table = np.bincount(out[:-1:2] * 12 + out[1::2], minlength=144)
    assert chisquare(table).pvalue > 1e-3


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.one_of(st.none(), st.integers(1, 25)),
    st.integers(0, 3),
)
def test_an_epoch_has_every_item_once_and_keeps_to_its_windows(counts, window, seed):
    counts = np.array(counts)
    n = int(counts.sum())
    shard, item = EpochOrder(counts, window, seed, 0).locate(np.arange(n))
    assert Counter(zip(shard.tolist(), item.tolist(), strict=True)) == Counter(
        (s, i) for s, k in enumerate(counts) for i in range(k)
    )
    # A shard that was left is not met again: runs of windows have disjoint sets of at most `window` shards.
    last = {s: p for p, s in enumerate(shard.tolist())}
    seen, groups = set(), []
    for p, s in enumerate(shard.tolist()):
        seen.add(s)
        if all(last[x] <= p for x in seen):
            groups.append(seen)
            seen = set()
    if window is not None:
        assert max(map(len, groups)) <= window
    places = np.arange(0, n, 3)
    again = EpochOrder(counts, window, seed, 0).locate(places)
    np.testing.assert_array_equal(again, (shard[::3], item[::3]))


def test_windows_are_of_even_size():
    order = EpochOrder(np.full(65, 10), 64, 0, 0)
    assert np.diff(order._windows).tolist() == [320, 330]


# --- what an item is --------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "loss"), [("train", "response"), ("val", "all")])
def test_a_packed_sequence_is_what_stands_in_the_shard(corpus, split, loss):
    expected = {}
    for shard in shards(corpus, split):
        tasks, studies = shard.column("task").to_pylist(), shard.column("study").to_pylist()
        for first, last in itertools.pairwise(shard.sample_starts.tolist()):
            tokens, mask, place, sample = [], [], [], []
            for i in range(first, last):
                for j, token in enumerate(shard.tokens(i).tolist()):
                    tokens.append(token)
                    mask.append(j >= shard.prompt_length(i) if loss == "response" else j > 0)
                    place.append(j)
                    sample.append(i - first)
            named = list(zip(tasks[first:last], studies[first:last], strict=True))
            expected[np.array(tokens).tobytes()] = (tokens, mask, place, sample, named)
    reader = ShardReader(corpus, split, loss=loss)
    items = list(reader)
    assert len(items) == len(reader) == len(expected)
    end = shards(corpus)[0].facts.end_of_text
    studies = (*reader.study_names, None)
    for item, key in zip(items, ids(items), strict=True):
        tokens, mask, place, sample, named = expected[key]
        assert item["input_ids"].tolist() == tokens
        assert item["loss_mask"].tolist() == mask
        assert item["labels"].tolist() == [t if m else -100 for t, m in zip(tokens, mask, strict=True)]  # fmt: skip
        assert item["position_ids"].tolist() == place
        assert item["seq_idx"].tolist() == sample
        assert item["seq_lengths"].tolist() == list(Counter(sample).values())
        found = zip(item["task_ids"].tolist(), item["study_ids"].tolist(), strict=True)
        assert [(reader.task_names[t], studies[s]) for t, s in found] == named
        ends = item["seq_lengths"].cumsum(0) - 1
        assert (item["input_ids"][ends] == end).all()
        assert item["loss_mask"][ends].all()
    types = {name: value.dtype for name, value in items[0].items()}
    assert types == dict.fromkeys(types, torch.int64) | {"loss_mask": torch.bool, "seq_idx": torch.int32}  # fmt: skip


def test_packed_sequences_and_samples_hold_the_same(corpus):
    packed = Counter()
    for item in ShardReader(corpus):
        lengths = item["seq_lengths"].tolist()
        columns = [item[name].split(lengths) for name in ("input_ids", "labels", "loss_mask")]
        for *sample, task, study in zip(*columns, item["task_ids"], item["study_ids"], strict=True):
            packed[(*(tuple(x.tolist()) for x in sample), int(task), int(study))] += 1
    names = ("input_ids", "labels", "loss_mask")
    samples = Counter(
        (*(tuple(item[n].tolist()) for n in names), int(item["task_ids"]), int(item["study_ids"]))
        for item in ShardReader(corpus, packed=False)
    )
    assert samples == packed


@pytest.mark.parametrize("split", ["train", "val", "held_out"])
def test_only_the_tasks_that_are_asked_for(corpus, split):
    counts = json.loads((corpus / "manifest.json").read_text())["samples"][split]
    wanted = [t for t in ("cell_type", "mc_lm") if t in counts]
    reader = ShardReader(corpus, split, packed=False, tasks=wanted)
    found = Counter(reader.task_names[item["task_ids"]] for item in reader)
    assert found == {t: counts[t] for t in wanted}
    assert reader.n_items == sum(found.values())


def test_tasks_that_a_shard_lacks(corpus):
    # Gene sets are shards of their own: all others have nothing to give.
    reader = ShardReader(corpus, packed=False, tasks=["gene_set_name"])
    found = Counter(ids(reader))
    wanted = list(TASKS).index("gene_set_name")
    everything = [i for i in ShardReader(corpus, packed=False) if int(i["task_ids"]) == wanted]
    assert found == Counter(ids(everything))
    assert len(found) > 0


# --- every item once --------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, None])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_share_the_items_and_none_is_lost(corpus, ranks, window):
    whole = ids(ShardReader(corpus, window=window))
    readers = [ShardReader(corpus, window=window, rank=r, world_size=ranks) for r in range(ranks)]
    streams = [ids(r) for r in readers]
    size = -(-len(whole) // ranks)
    assert [len(s) for s in streams] == [len(r) for r in readers] == [size] * ranks
    dealt = [stream[k] for k in range(size) for stream in streams]
    assert dealt[: len(whole)] == whole
    # What is over comes from the beginning.
    assert dealt[len(whole) :] == whole[: size * ranks - len(whole)]


def test_the_last_may_be_left_out_instead(corpus):
    whole = ids(ShardReader(corpus))
    ranks = 5 if len(whole) % 5 else 7
    streams = [ids(ShardReader(corpus, rank=r, world_size=ranks, drop_last=True)) for r in range(ranks)]  # fmt: skip
    size = len(whole) // ranks
    assert [x for k in range(size) for x in (s[k] for s in streams)] == whole[: size * ranks]


def test_the_order_is_that_of_seed_and_epoch(corpus):
    def order(epoch=0, **kwargs):
        reader = ShardReader(corpus, **kwargs)
        reader.set_epoch(epoch)
        return ids(reader)

    first = order()
    assert order() == first
    others = [order(epoch=1), order(seed=1), order(window=1), order(window=None, seed=2)]
    for other in others:
        assert other != first
        assert Counter(other) == Counter(first)
    assert len({tuple(o) for o in others}) == 4


def test_several_epochs_in_one_iteration(corpus):
    one = ShardReader(corpus, rank=1, world_size=3)
    expected = []
    for epoch in range(3):
        one.set_epoch(epoch)
        expected += ids(one)
    many = ShardReader(corpus, rank=1, world_size=3, epochs=3)
    assert len(many) == len(expected)
    assert ids(many) == expected
    many.skip(len(one) + 5)
    assert ids(many) == []  # it stands at the end
    many.set_epoch(1)
    many.skip(5)
    assert ids(many) == expected[len(one) + 5 :]


# --- going on ---------------------------------------------------------------------------------


def test_going_on_from_every_place(corpus):
    whole = ids(ShardReader(corpus, "val", window=2))
    assert len(whole) > 10
    reader = ShardReader(corpus, "val", window=2)
    states = [reader.state_dict()]
    for _ in reader:
        states.append(json.loads(json.dumps(reader.state_dict())))
    reader.set_epoch(1)
    after = ids(reader)
    for k, state in enumerate(states):
        again = ShardReader(corpus, "val", window=2)
        again.load_state_dict(state)
        assert ids(again) == (whole[k:] or after)
        again = ShardReader(corpus, "val", window=2)
        again.skip(k)
        assert again.state_dict() == state
        assert ids(again) == (whole[k:] or after)


def test_what_is_skipped_is_not_opened(corpus, monkeypatch):
    opened = []
    plain = TokenShard.__init__
    monkeypatch.setattr(TokenShard, "__init__", lambda self, path: (opened.append(path), plain(self, path))[1])  # fmt: skip
    reader = ShardReader(corpus, packed=False)
    assert opened == []
    reader.skip(len(reader) - 1)
    assert opened == []
    assert len(list(reader)) == 1
    assert len(opened) == 1


def test_a_place_is_kept_when_the_trainer_names_its_epoch(corpus):
    reader = ShardReader(corpus)
    reader.set_epoch(2)
    whole = ids(reader)
    state = ShardReader(corpus)
    state.set_epoch(2)
    state.skip(4)
    reader.load_state_dict(state.state_dict())
    reader.set_epoch(2)
    assert ids(reader) == whole[4:]
    reader.set_epoch(3)
    assert len(ids(reader)) == len(whole)
    reader.set_epoch(2)
    assert ids(reader) == whole


@pytest.mark.parametrize("then", [1, 2, 6])
def test_going_on_with_another_number_of_ranks(corpus, then):
    whole = ids(ShardReader(corpus))
    readers = [ShardReader(corpus, rank=r, world_size=3) for r in range(3)]
    for r in readers:
        r.skip(4)
    states = {json.dumps(r.state_dict(), sort_keys=True) for r in readers}
    assert len(states) == 1
    again = [ShardReader(corpus, rank=r, world_size=then) for r in range(then)]
    for r in again:
        r.load_state_dict(json.loads(next(iter(states))))
    streams = [ids(r) for r in again]
    dealt = [s[k] for k in range(len(streams[0])) for s in streams]
    assert dealt[: len(whole) - 12] == whole[12:]


def test_states_of_another_reader_are_refused(corpus):
    state = ShardReader(corpus).state_dict()
    for kwargs in ({"seed": 1}, {"window": 3}, {"packed": False}, {"split": "val"}):
        with pytest.raises(UsageError, match="the state is of a reader with another"):
            ShardReader(corpus, **kwargs).load_state_dict(state)
    with pytest.raises(UsageError, match="version None"):
        ShardReader(corpus).load_state_dict({})
    reader = ShardReader(corpus, rank=0, world_size=3)
    reader.skip(1)
    with pytest.raises(
        UsageError, match="3 ranks after 1 items of each, which 2 ranks cannot share"
    ):
        ShardReader(corpus, rank=0, world_size=2).load_state_dict(reader.state_dict())


# --- workers ----------------------------------------------------------------------------------


def loader(reader, batch_size, **kwargs):
    return DataLoader(reader, batch_size=batch_size, collate_fn=as_list, **kwargs)


def test_workers_give_the_batches_of_one_process(corpus):
    for rank in range(3):
        kwargs = {"rank": rank, "world_size": 3, "batch_size": 4, "epochs": 2}
        alone = [ids(b) for b in loader(ShardReader(corpus, **kwargs), 4)]
        with_workers = loader(ShardReader(corpus, **kwargs), 4, num_workers=2)
        assert [ids(b) for b in with_workers] == alone
        assert len(with_workers) == len(alone)
        # Going on in the middle of an epoch, with workers and without.
        reader = ShardReader(corpus, **kwargs)
        reader.skip(3 * 4)
        assert [ids(b) for b in loader(reader, 4, num_workers=2)] == alone[3:]


def test_single_items_of_workers_come_in_order(corpus):
    whole = ids(ShardReader(corpus))
    assert ids(DataLoader(ShardReader(corpus), batch_size=None, num_workers=2)) == whole


def test_workers_that_do_not_know_the_batch_size_lose_nothing(corpus):
    found = [i for b in loader(ShardReader(corpus), 3, num_workers=2) for i in ids(b)]
    assert Counter(found) == Counter(ids(ShardReader(corpus)))


def test_workers_that_persist_are_told_of_the_epoch(corpus):
    reader = ShardReader(corpus, batch_size=4)
    batches = loader(reader, 4, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 5):
        reader.set_epoch(epoch)
        alone = ShardReader(corpus)
        alone.set_epoch(epoch)
        assert [i for b in batches for i in ids(b)] == ids(alone)


def as_worker(monkeypatch, k, n):
    monkeypatch.setattr(module, "get_worker_info", lambda: SimpleNamespace(id=k, num_workers=n))


@pytest.mark.parametrize("size", [1, 3])
def test_each_worker_goes_on_from_its_own_state(corpus, monkeypatch, size):
    # As torchdata's StatefulDataLoader does: every worker's state is saved and loaded in that worker.
    whole = ids(ShardReader(corpus))
    for done in ((0, 0), (1, 0), (5, 4), (4, 7)):
        parts = []
        for k in range(2):
            as_worker(monkeypatch, k, 2)
            reader = ShardReader(corpus, batch_size=size)
            stream = iter(reader)
            before = ids(itertools.islice(stream, done[k]))
            state = json.loads(json.dumps(reader.state_dict()))
            again = ShardReader(corpus, batch_size=size)
            again.load_state_dict(state)
            assert again.state_dict() == state
            rest = ids(again)
            assert rest == ids(stream)
            parts.append(before + rest)
            as_worker(monkeypatch, k, 4)
            with pytest.raises(UsageError, match=f"worker {k} of 2"):
                again.load_state_dict(state)
            # Another epoch, told by the main process, holds again for all workers.
            as_worker(monkeypatch, k, 2)
            again.set_epoch(1)
            assert len(ids(again)) == len(parts[-1])
        assert Counter(parts[0] + parts[1]) == Counter(whole)


def test_a_copy_in_another_process_reads_the_same(corpus):
    reader = ShardReader(corpus)
    reader.skip(3)
    rest = ids(reader)
    copy = pickle.loads(pickle.dumps(reader))
    assert ids(copy) == rest


def test_few_open_shards_read_the_same(corpus):
    expected = ids(ShardReader(corpus, window=None))
    reader = ShardReader(corpus, window=None, max_open=2)
    found = []
    for item in reader:
        found.append(item)
        assert len(reader._open) <= 2
    assert ids(found) == expected


def test_the_rank_is_found(corpus, monkeypatch):
    assert (ShardReader(corpus).rank, ShardReader(corpus).world_size) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (ShardReader(corpus).rank, ShardReader(corpus).world_size) == (2, 4)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert (ShardReader(corpus).rank, ShardReader(corpus).world_size) == (1, 2)
    reader = ShardReader(corpus, rank=0, world_size=1)
    assert (reader.rank, reader.world_size) == (0, 1)


# --- beside Hugging Face ----------------------------------------------------------------------


def test_collators_of_hugging_face_take_the_items(corpus):
    from transformers import DataCollatorWithFlattening

    packed = next(iter(ShardReader(corpus)))
    samples = [
        {"input_ids": i, "labels": j}
        for i, j in zip(
            packed["input_ids"].split(packed["seq_lengths"].tolist()),
            packed["labels"].split(packed["seq_lengths"].tolist()),
            strict=True,
        )
    ]
    flat = DataCollatorWithFlattening(return_seq_idx=True)(samples)
    for name in ("input_ids", "labels", "position_ids", "seq_idx"):
        assert flat[name].dtype == packed[name].dtype
        torch.testing.assert_close(flat[name], packed[name][None])


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_the_collator_of_trl_takes_packed_sequences(corpus):
    collators = pytest.importorskip("trl.trainer.sft_trainer")
    items = list(itertools.islice(ShardReader(corpus), 3))
    collate = collators.DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate(items)
    for name in ("input_ids", "labels", "position_ids"):
        torch.testing.assert_close(batch[name], torch.cat([i[name] for i in items])[None])


def test_a_model_keeps_the_samples_of_a_sequence_apart(corpus):
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = ShardReader(corpus)
    item = next(i for i in reader if len(i["seq_lengths"]) > 2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shards(corpus)[0].facts.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    names = ("input_ids", "labels", "position_ids")
    with torch.no_grad():
        together = model(**{n: item[n][None] for n in names}, use_cache=False)
        parts = zip(*(item[n].split(item["seq_lengths"].tolist()) for n in names), strict=True)
        apart = [model(**dict(zip(names, (x[None] for x in p), strict=True))) for p in parts]
    torch.testing.assert_close(together.logits, torch.cat([a.logits for a in apart], dim=1), atol=1e-4, rtol=1e-4)  # fmt: skip
    learned = [int(m.sum()) for m in item["loss_mask"].split(item["seq_lengths"].tolist())]
    mean = sum(float(a.loss) * n for a, n in zip(apart, learned, strict=True)) / sum(learned)
    assert float(together.loss) == pytest.approx(mean, rel=1e-4)


# --- what can be wrong ------------------------------------------------------------------------


def first_shard(folder):
    return sorted((folder / "tokens" / "train").glob("*.arrow"))[1]


def test_a_shard_that_is_missing_or_cut_is_named_at_once(changeable):
    path = first_shard(changeable)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(
        InputError,
        match=f"{path.name}: has {len(content) - 100:,} bytes, where the manifest has {len(content):,}",
    ):
        ShardReader(changeable)
    path.unlink()
    with pytest.raises(
        InputError, match=f"{path.name}: cannot be read as a token shard .No such file"
    ):
        ShardReader(changeable)
    assert len(list(ShardReader(changeable, "val"))) > 0


def test_a_damaged_shard_is_named_when_it_is_read(changeable):
    path = first_shard(changeable)
    content = bytearray(path.read_bytes())
    content[-200:-10] = bytes(190)
    path.write_bytes(content)
    reader = ShardReader(changeable)
    with pytest.raises(InputError, match=path.name):
        list(reader)


def test_a_shard_never_ends_the_process_whatever_bit_is_wrong(changeable):
    rng = np.random.default_rng(0)
    path = min((changeable / "tokens" / "train").glob("*.arrow"), key=lambda p: p.stat().st_size)
    content = path.read_bytes()
    refusals = []
    # Where the file describes itself: the schema at its beginning and at its end.
    for at in [*rng.integers(2000, size=30), *(len(content) - 1 - rng.integers(2500, size=30))]:
        wrong = bytearray(content)
        wrong[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(wrong)
        try:
            list(ShardReader(changeable, window=1))
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all(path.name in line and "\n" not in line for line in refusals)


def test_another_shard_in_its_place(changeable):
    one, other = sorted((changeable / "tokens" / "train").glob("*.arrow"))[1:3]
    manifest = json.loads((changeable / "manifest.json").read_text())
    manifest["files"][f"tokens/train/{one.name}"]["bytes"] = other.stat().st_size
    (changeable / "manifest.json").write_text(json.dumps(manifest))
    one.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=f"{one.name}: has .* samples in .* run c2s corpus verify"):
        list(ShardReader(changeable))


def test_a_unit_record_that_is_damaged(changeable):
    path = changeable / "units" / f"{first_shard(changeable).stem}.json"
    path.write_text("{")
    with pytest.raises(InputError, match=f"{path.name}: is damaged"):
        ShardReader(changeable)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        ShardReader(changeable)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "training"}, "no samples of split 'training'; it has: train"),
        ({"tasks": ["cell_type"]}, "give packed=False"),
        ({"tasks": ["celltype"], "packed": False}, "no samples of task 'celltype' in split 'train'; it has"),
        ({"window": 0}, "window is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"max_open": 0}, "max_open is 0"),
        ({"loss": "prompt"}, "loss is 'prompt'; expected 'response' or 'all'"),
        ({"rank": 1}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of world_size 2"),
        ({"rank": 0, "world_size": 10**6, "drop_last": True}, "fewer than 1,000,000 ranks"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work(corpus, kwargs, message):
    with pytest.raises(UsageError, match=message):
        ShardReader(corpus, **kwargs)


def test_a_folder_that_is_no_corpus(tmp_path):
    with pytest.raises(InputError, match="is no corpus"):
        ShardReader(tmp_path)


def test_epochs_and_skips_below_zero(corpus):
    with pytest.raises(UsageError, match="epoch is -1"):
        ShardReader(corpus).set_epoch(-1)
    with pytest.raises(UsageError, match="-1 items cannot be skipped"):
        ShardReader(corpus).skip(-1)
