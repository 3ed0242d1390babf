"""Reading token shards for training: shuffled, shared out over ranks and workers, resumable to the exact item.

    reader = ShardReader("corpus", "train", batch_size=8)
    for epoch in range(3):
        reader.set_epoch(epoch)
        for batch in DataLoader(reader, batch_size=8, collate_fn=collate, num_workers=2):
            ...

The order is computed, not stored: place `p` of an epoch is a shard and an item of it, found from the number of items
of each shard and a keyed permutation of numbers. So starting in the middle reads nothing of what came before, every
worker finds its own items without talking to the others, and memory holds a few numbers a shard.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from c2s.common.errors import InputError, UsageError, listing
from c2s.common.seeds import generator, mix64
from c2s.corpus.shards import TokenShard
from c2s.corpus.show import read_manifest
from c2s.tasks.registry import TASKS

#: Label of tokens that are not learned, as in Hugging Face and PyTorch.
IGNORE = -100

#: Places whose items are looked up at a time.
_BLOCK = 256

_ROUNDS = 8


def permuted(places: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Return where places go in a permutation of 0 … n - 1, without making the permutation.

    A Feistel network permutes the numbers below the next power of four; a number that lands at `n` or above is sent
    through it again until it does not, which leaves a permutation of those below `n` ("cycle walking": Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains").

    Parameters
    ----------
    places : int64, shape (k,)
        Each in 0 … n - 1.
    n
        How many numbers are permuted.
    keys : uint64, shape (n_rounds,)
        Which permutation.

    Returns
    -------
    int64 array, shape (k,)
    """
    # Halves of at least four bits: on fewer, the network reaches too few permutations.
    bits = np.uint64(max(4, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(bits)) - 1)
    out = places.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        left, right = out[walking] >> bits, out[walking] & low
        for key in keys:
            left, right = right, left ^ (mix64(right ^ key) & low)
        out[walking] = (left << bits) | right
        walking = walking[out[walking] >= n]
    return out.astype(np.int64)


class EpochOrder:
    """The order of all items in one epoch.

    Shards are shuffled and taken about `window` at a time; all items of the shards of a window are permuted together.

    Parameters
    ----------
    counts : int64, shape (n_shards,)
        Items of each shard, at least one.
    window
        Shards of a window; None for one window of all shards.
    seed, epoch
        Draw the order.
    """

    def __init__(self, counts: np.ndarray, window: int | None, seed: int, epoch: int) -> None:
        self._shards = generator(seed, "shards", epoch).permutation(len(counts))
        self._starts = np.concatenate([[0], np.cumsum(counts[self._shards])])
        n_windows = 1 if window is None else -(-len(counts) // window)
        # Windows of even size: a last one of a single shard would not be mixed.
        self._windows = self._starts[np.arange(n_windows + 1) * len(counts) // n_windows]
        self._keys = generator(seed, "items", epoch).integers(
            0, 1 << 64, size=(n_windows, _ROUNDS), dtype=np.uint64
        )

    def locate(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard and the item within it of each place of the epoch. Both int64, shape (n_places,)."""
        window = np.searchsorted(self._windows, places, side="right") - 1
        at = np.empty(len(places), np.int64)
        for w in np.unique(window):
            here = window == w
            start, stop = self._windows[w : w + 2]
            at[here] = start + permuted(places[here] - start, int(stop - start), self._keys[w])
        shard = np.searchsorted(self._starts, at, side="right") - 1
        return self._shards[shard], at - self._starts[shard]


@dataclass(frozen=True)
class ShardEntry:
    """What is known of a shard before it is opened."""

    name: str
    """Path within the corpus."""
    samples: int
    sequences: int
    items: int
    """What the reader takes from it: sequences, samples, or the samples of some tasks."""


class OpenShard:
    """A shard with what is asked of it for every item.

    Parameters
    ----------
    path
        The file.
    entry
        What the corpus says of it.
    split
        The split that it is read for.
    tasks
        Only samples of these; None for all. Not with packed sequences.
    studies
        Number of each study.

    Raises
    ------
    InputError
        The file is no token shard, or not the one that the corpus says it is.
    """

    def __init__(
        self,
        path: Path,
        entry: ShardEntry,
        split: str,
        tasks: frozenset[str] | None,
        studies: Mapping[str, int],
    ) -> None:
        self.shard = TokenShard(path)
        self._check(entry, split)
        # Taken out of Arrow once: asking it for single values costs more than all that is done with them. Still arrays,
        # and small ones: hundreds of shards may be open.
        chunks = self.shard.column("tokens").chunks
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)]).tolist()
        self.prompt_lengths = self.shard.column("prompt_length").to_numpy()
        self.tasks = _codes(self.shard, "task", {name: k for k, name in enumerate(TASKS)})
        self.studies = _codes(self.shard, "study", studies)
        self.chosen: np.ndarray | None = None
        if tasks is not None:
            wanted = [k for k, name in enumerate(TASKS) if name in tasks]
            self.chosen = np.flatnonzero(np.isin(self.tasks, wanted)).astype(np.int32)
            if len(self.chosen) != entry.items:
                raise InputError(
                    f"{path}: has {len(self.chosen):,} samples of {listing(sorted(tasks))}, where the corpus has "
                    f"{entry.items:,}; run c2s corpus verify"
                )

    def _check(self, entry: ShardEntry, split: str) -> None:
        shard = self.shard
        found = (len(shard), shard.n_sequences, shard.facts.split)
        if found != (entry.samples, entry.sequences, split):
            raise InputError(
                f"{shard.path}: has {found[0]:,} samples in {found[1]:,} sequences of split {found[2]!r}, where the "
                f"corpus has {entry.samples:,} in {entry.sequences:,} of {split!r}; run c2s corpus verify"
            )
        prompts = shard.column("prompt_length").to_numpy()
        batches = np.cumsum([0, *(len(chunk) for chunk in shard.column("tokens").chunks)])
        fits = (prompts >= 1) & (prompts < shard.lengths())
        if not (np.isin(batches, shard.sample_starts).all() and fits.all()):
            raise InputError(
                f"{shard.path}: is damaged (sequences or prompt lengths that do not fit); run c2s corpus verify"
            )

    def tokens(self, first: int, last: int) -> tuple[np.ndarray, list[int]]:
        """Return the tokens of samples `first` to `last` of one sequence, and where each begins and the last ends.

        Returns
        -------
        int64 array, shape (n_tokens,)
        list of int, length last - first + 1
        """
        # A sequence stands within one batch of the file.
        k = bisect.bisect_right(self._starts, first) - 1
        at = first - self._starts[k]
        offsets = self._offsets[k][at : at + last - first + 1].tolist()
        begin = offsets[0]
        return self._values[k][begin : offsets[-1]].astype(np.int64), [o - begin for o in offsets]


def _codes(shard: TokenShard, name: str, numbers: Mapping[str, int]) -> np.ndarray:
    """Return a dictionary column as numbers that hold for the whole corpus; -1 for none. int32, shape (n_samples,)."""
    out = []
    for chunk in shard.column(name).chunks:
        words = chunk.dictionary.to_pylist()
        codes = chunk.indices.cast(pa.int64()).fill_null(len(words)).to_numpy()
        unknown = [w for w in words if w not in numbers]
        if unknown:
            raise InputError(
                f"{shard.path}: has the {name} {unknown[0]!r}, which "
                + ("this version" if name == "task" else "the corpus's manifest")
                + " does not know; build the corpus anew"
            )
        out.append(np.array([*(numbers[w] for w in words), -1], np.int32)[codes])
    return np.concatenate(out)


class ShardReader(IterableDataset[dict[str, torch.Tensor]]):
    """The items of one split of a corpus, in a seeded order that differs from epoch to epoch.

    Parameters
    ----------
    folder
        A corpus, made by `c2s corpus build`.
    split
        "train", "val", "test" or "held_out".
    packed
        True: an item is a packed sequence. False: an item is a sample.
    tasks
        Only samples of these tasks. Needs `packed=False`, because packed sequences hold samples of all; a corpus that
        is built with only these tasks packs them.
    loss
        What is learned: "response", the tokens of responses with their end-of-text, as in supervised fine-tuning;
        "all", every token but the first of a sample, as in pre-training (SPEC §5).
    window
        Shards whose items are shuffled together. More mix studies better and keep more files in use; None shuffles
        everything together.
    seed
        Draws the order.
    rank, world_size
        This process, and the number of processes that share the items. By default those of `torch.distributed` where
        it is initialised, else RANK and WORLD_SIZE in the environment, which torchrun and accelerate set, else one
        process. Give 0 and 1 where something else shares out the items: accelerate and the Trainer do unless told
        otherwise.
    epochs
        None: one iteration is one epoch, the one that `set_epoch` names. A number: one iteration goes on until this
        many epochs are done, counted from epoch 0.
    drop_last
        An epoch has the same number of items on every rank. Where they do not come out even, False: the first few of
        the epoch come again at its end; True: the last few of the epoch are left out.
    batch_size
        The batch size of the DataLoader. Each worker then takes whole batches, so that they are the same batches in
        the same order with any number of workers.
    max_open
        Shards that a process keeps open. With fewer than `window` they are opened again and again.

    Attributes
    ----------
    task_names : tuple of str
        What `task_ids` count in.
    study_names : tuple of str
        What `study_ids` count in.
    n_items : int
        Items of an epoch over all ranks.

    Raises
    ------
    InputError
        The folder holds no complete corpus, or a shard is missing or cut short; while reading, a shard is damaged.
    UsageError
        The corpus has no such split or task, or the arguments do not go together.

    Notes
    -----
    A packed sequence of n samples and t tokens is a dictionary of

    - `input_ids`: tokens. int64, shape (t,)
    - `labels`: the same where it is learned, -100 elsewhere. int64, shape (t,)
    - `loss_mask`: where it is learned. bool, shape (t,)
    - `position_ids`: from 0 in each sample. int64, shape (t,)
    - `seq_idx`: which sample of the sequence, from 0. int32, shape (t,)
    - `seq_lengths`: tokens of each sample. int64, shape (n,)
    - `task_ids`, `study_ids`: places in `task_names` and `study_names`, -1 for none. int64, shape (n,)

    A sample is a dictionary of `input_ids`, `labels` and `loss_mask` as above, and `task_ids` and `study_ids` of shape
    ().

    Labels stand at their own token; models shift them. No label stands at the first token of a sample, so none is
    predicted from another sample. The names are those of Hugging Face: `DataCollatorWithFlattening` of transformers
    makes `position_ids` and `seq_idx` from samples; TRL's `DataCollatorForLanguageModeling(padding_free=True)` takes
    packed sequences by their `seq_lengths`. Attention in transformers keeps to samples by `position_ids`, where no
    `attention_mask` is given.

    Items of an epoch go to ranks in turn: place p of the epoch to rank p modulo `world_size`. The items of a rank go
    to the workers of its DataLoader in turn, `batch_size` at a time.

    Examples
    --------
    >>> reader = ShardReader("corpus", "train")  # doctest: +SKIP
    >>> loader = DataLoader(reader, batch_size=None, num_workers=2)  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        *,
        packed: bool = True,
        tasks: Sequence[str] | None = None,
        loss: Literal["response", "all"] = "response",
        window: int | None = 64,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        epochs: int | None = None,
        drop_last: bool = False,
        batch_size: int = 1,
        max_open: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"window": window, "epochs": epochs, "batch_size": batch_size, "max_open": max_open}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; expected at least 1")
        if loss not in ("response", "all"):
            raise UsageError(f"loss is {loss!r}; expected 'response' or 'all'")
        if tasks is not None and packed:
            raise UsageError(
                "tasks cannot be chosen from packed sequences, which hold samples of all; give packed=False, or build "
                "a corpus of only these tasks"
            )
        self.folder, self.split, self.packed, self.loss = Path(folder), split, packed, loss
        self.window, self.seed, self.epochs = window, seed, epochs
        self.batch_size, self.max_open = batch_size, max_open
        self.rank, self.world_size = _rank(rank, world_size)
        manifest = read_manifest(self.folder)
        self._wanted = None if tasks is None else frozenset(tasks)
        self._entries = _entries(self.folder, manifest, split, packed, self._wanted)
        self.task_names = tuple(TASKS)
        self.study_names = tuple(sorted(manifest["splits"]))
        self._study_numbers = {name: k for k, name in enumerate(self.study_names)}
        self._counts = np.array([e.items for e in self._entries], np.int64)
        self.n_items = int(self._counts.sum())
        self._per_epoch = (
            self.n_items // self.world_size if drop_last else -(-self.n_items // self.world_size)
        )
        if not self._per_epoch:
            raise UsageError(
                f"{folder}: {self.n_items:,} items of {split!r} are fewer than {self.world_size:,} ranks; give "
                "drop_last=False"
            )
        content = [(e.name, manifest["files"][e.name]["sha256"]) for e in self._entries]
        order = repr((content, packed, sorted(self._wanted or ()), window, seed))
        self._digest = hashlib.sha256(order.encode()).hexdigest()[:16]
        # Where iterating begins: epoch, and place in this rank's stream. In shared memory, so that workers that
        # persist are told of another epoch.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()
        # In a worker: where the whole began before, and where this worker goes on from; see `load_state_dict`.
        self._resumed: tuple[list[int], tuple[int, int, int]] | None = None
        self._done = 0
        self._last_order: tuple[int, EpochOrder] | None = None
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    def __len__(self) -> int:
        """Return the items of this rank in an iteration from the start."""
        return self._per_epoch * (self.epochs or 1)

    def __getstate__(self) -> dict[str, Any]:
        # Files are opened anew where the copy is used.
        return {**self.__dict__, "_open": OrderedDict()}

    # --- the place ----------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration with this epoch: at its start, or where `load_state_dict` or `skip` put it.

        The Trainer and accelerate call this. Workers of a DataLoader that persist are told too.

        Raises
        ------
        UsageError
            The epoch is negative.
        """
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}; expected at least 0")
        if epoch != int(self._start[0]):
            self._begin(epoch, 0)

    def skip(self, n: int) -> None:
        """Go `n` items of this rank further; nothing is read.

        Where workers of a DataLoader read, this process does not know how far they are: skip counts from where the
        iteration began, so give `batches * batch_size`.

        Raises
        ------
        UsageError
            `n` is negative.
        """
        if n < 0:
            raise UsageError(f"{n} items cannot be skipped; expected at least 0")
        epoch, position = self._place()
        self._begin(epoch, position + n)

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the next item, as plain numbers and texts.

        Right after an item was taken from this reader, or a batch from a DataLoader without workers, it is the place of
        the one that follows. In a worker of torchdata's `StatefulDataLoader` it is the place of that worker.
        """
        worker = get_worker_info()
        state = {"version": 1, "order": self._digest, "world_size": self.world_size}
        if worker is None:
            epoch, position = self._place()
            return state | {"epoch": epoch, "position": position}
        epoch, position, _ = self._first()
        mine = {"worker": worker.id, "workers": worker.num_workers, "batch_size": self.batch_size}
        return state | {"epoch": epoch, "position": position, "done": self._done} | mine

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a place that `state_dict` returned.

        The number of ranks may be another one, where it divides the items that were taken.

        Raises
        ------
        UsageError
            The state is of another corpus, split, seed or window, or of other workers.
        """
        if state.get("version") != 1:
            raise UsageError(
                f"the state of a reader has version {state.get('version')!r}; this one reads version 1"
            )
        if state["order"] != self._digest:
            raise UsageError(
                f"{self.folder}: the state is of a reader with another corpus, split, packed, tasks, window or seed; "
                "give the same as when it was saved"
            )
        if "worker" in state:
            self._resume_worker(state)
            return
        position, left = divmod(state["position"] * state["world_size"], self.world_size)
        if left:
            raise UsageError(
                f"the state was saved with {state['world_size']:,} ranks after {state['position']:,} items of each, "
                f"which {self.world_size:,} ranks cannot share; use as many as then"
            )
        self._begin(state["epoch"], position)

    def _resume_worker(self, state: Mapping[str, Any]) -> None:
        """Go on as a worker of a StatefulDataLoader, which loads the state of each worker into that worker."""
        worker = get_worker_info()
        names = ("worker", "workers", "batch_size", "world_size")
        found = tuple(state[name] for name in names)
        mine = (None, None) if worker is None else (worker.id, worker.num_workers)
        if found != (*mine, self.batch_size, self.world_size):
            raise UsageError(
                f"the state is of worker {found[0]} of {found[1]} with batch_size {found[2]} and world_size "
                f"{found[3]}; use as many as then"
            )
        # What this worker has read is not to be told to the others, so not in shared memory; and it holds until
        # another epoch is told there.
        place = (state["epoch"], state["position"], state["done"])
        self._resumed = (self._start.tolist(), place)
        self._done = state["done"]

    def _first(self) -> tuple[int, int, int]:
        """Return epoch and place where iterating begins, and how much of what follows is done."""
        start = self._start.tolist()
        if self._resumed is not None and self._resumed[0] == start:
            return self._resumed[1]
        return start[0], start[1], 0

    def _place(self) -> tuple[int, int]:
        """Return the epoch and the place in it of the next item of this process."""
        epoch, position, _ = self._first()
        further, position = divmod(position + self._done, self._per_epoch)
        return epoch + further, position

    def _begin(self, epoch: int, position: int) -> None:
        further, position = divmod(position, self._per_epoch)
        self._start.copy_(torch.tensor([epoch + further, position]))
        self._done = 0

    # --- reading ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the items from the place where `set_epoch`, `skip` or `load_state_dict` put it."""
        epoch, position, self._done = self._first()
        last = epoch + 1 if self.epochs is None else self.epochs
        total = (last - epoch) * self._per_epoch - position
        for own in self._own_places(self._done, total):
            epochs, places = np.divmod(position + own, self._per_epoch)
            for shard, item, done in self._located(epoch + epochs, places, own + 1):
                opened = self._opened(shard)
                content = _sequence if self.packed else _sample
                # Counted before it is handed over: the state then is that of the next.
                self._done = done
                yield content(opened, item, self.loss)

    def at(self, positions: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the items at places of this rank's endless stream; the place that iterating has reached stays.

        Parameters
        ----------
        positions : int64 array, shape (n,)
            Ascending; the first of the second epoch follows the last of the first. Workers of a DataLoader do not deal
            them out.
        """
        epochs, places = np.divmod(positions, self._per_epoch)
        content = _sequence if self.packed else _sample
        for shard, item, _ in self._located(epochs, places, positions):
            yield content(self._opened(shard), item, self.loss)

    def _own_places(self, first: int, total: int) -> Iterator[np.ndarray]:
        """Yield the numbers from `first` to `total` that fall to this worker, some at a time.

        They are dealt out `batch_size` at a time, as a DataLoader asks its workers for batches.
        """
        worker = get_worker_info()
        me, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        size, turn = self.batch_size, self.batch_size * workers
        # This worker's k-th number, for the first number that is not below `first`.
        k = first // turn * size + min(max(first % turn - me * size, 0), size)
        while True:
            own = np.arange(k, k + _BLOCK)
            own = own // size * turn + me * size + own % size
            own = own[own < total]
            if not len(own):
                return
            yield own
            k += _BLOCK

    def _located(
        self, epochs: np.ndarray, places: np.ndarray, done: np.ndarray
    ) -> Iterator[tuple[int, int, int]]:
        """Yield shard, item of the shard and `done` for places of this rank's stream."""
        for epoch in np.unique(epochs):
            here = epochs == epoch
            # Beyond the last item, where ranks do not come out even, it begins again.
            places_of_all = (places[here] * self.world_size + self.rank) % self.n_items
            shards, items = self._order(int(epoch)).locate(places_of_all)
            yield from zip(shards.tolist(), items.tolist(), done[here].tolist(), strict=True)

    def _order(self, epoch: int) -> EpochOrder:
        if self._last_order is None or self._last_order[0] != epoch:
            order = EpochOrder(self._counts, self.window, self.seed, epoch)
            self._last_order = (epoch, order)
        return self._last_order[1]

    def _opened(self, k: int) -> OpenShard:
        if k in self._open:
            self._open.move_to_end(k)
            return self._open[k]
        while len(self._open) >= self.max_open:
            self._open.popitem(last=False)[1].shard.close()
        entry = self._entries[k]
        self._open[k] = OpenShard(
            self.folder / entry.name, entry, self.split, self._wanted, self._study_numbers
        )
        return self._open[k]


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank and the number of ranks."""
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size go together; give both or none")
    if rank is None or world_size is None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world_size:
        raise UsageError(
            f"rank is {rank} of world_size {world_size}; expected 0 ≤ rank < world_size"
        )
    return rank, world_size


def _entries(
    folder: Path,
    manifest: Mapping[str, Any],
    split: str,
    packed: bool,
    tasks: frozenset[str] | None,
) -> list[ShardEntry]:
    """Return the shards of a split that hold an item, in the order of their names."""
    counts = manifest["samples"]
    if split not in counts:
        raise UsageError(
            f"{folder}: has no samples of split {split!r}; it has: {listing(list(counts))}"
        )
    unknown = sorted((tasks or frozenset()) - set(counts[split]))
    if unknown:
        raise UsageError(
            f"{folder}: has no samples of task {unknown[0]!r} in split {split!r}; it has: "
            f"{listing(sorted(counts[split]))}"
        )
    entries = []
    for name, facts in sorted(manifest["files"].items()):
        if name.startswith(f"tokens/{split}/"):
            _check_size(folder / name, facts["bytes"])
            record = _unit_record(folder / "units" / f"{Path(name).stem}.json")
            sequences = record["sequences"][split]
            by_task = record["samples"][split]
            samples = sum(n for t, n in by_task.items() if tasks is None or t in tasks)
            items = sequences if packed else samples
            entries.append(ShardEntry(name, facts["rows"], sequences, items))
    return [e for e in entries if e.items]


def _check_size(path: Path, expected: int) -> None:
    """Refuse a shard that is missing or cut short, before days are spent on the others."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as a token shard ({error.strerror}); run c2s corpus build again"
        ) from error
    if found != expected:
        raise InputError(
            f"{path}: has {found:,} bytes, where the manifest has {expected:,}; run c2s corpus build again"
        )


def _unit_record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run c2s corpus build again"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); run c2s corpus build again") from error


def _sample(opened: OpenShard, item: int, loss: str) -> dict[str, torch.Tensor]:
    """Return one sample; see `ShardReader`."""
    i = item if opened.chosen is None else int(opened.chosen[item])
    tokens, bounds = opened.tokens(i, i + 1)
    return {
        **_learnable(tokens, bounds, opened.prompt_lengths[i : i + 1], loss),
        "task_ids": torch.tensor(int(opened.tasks[i])),
        "study_ids": torch.tensor(int(opened.studies[i])),
    }


def _sequence(opened: OpenShard, item: int, loss: str) -> dict[str, torch.Tensor]:
    """Return one packed sequence; see `ShardReader`."""
    first, last = opened.shard.sample_starts[item : item + 2].tolist()
    tokens, bounds = opened.tokens(first, last)
    lengths = np.diff(bounds)
    positions = np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
    return {
        **_learnable(tokens, bounds, opened.prompt_lengths[first:last], loss),
        "position_ids": torch.from_numpy(positions),
        "seq_idx": torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)),
        "seq_lengths": torch.from_numpy(lengths),
        "task_ids": torch.from_numpy(opened.tasks[first:last].astype(np.int64)),
        "study_ids": torch.from_numpy(opened.studies[first:last].astype(np.int64)),
    }


def _learnable(
    tokens: np.ndarray, bounds: Sequence[int], prompt_lengths: np.ndarray, loss: str
) -> dict[str, torch.Tensor]:
    """Return tokens with labels and loss mask; `bounds` says where each sample begins and the last ends."""
    labels, learned = tokens.copy(), np.ones(len(tokens), np.bool_)
    for start, prompt in zip(bounds, prompt_lengths.tolist(), strict=False):
        stop = start + (prompt if loss == "response" else 1)
        labels[start:stop] = IGNORE
        learned[start:stop] = False
    return {
        "input_ids": torch.from_numpy(tokens),
        "labels": torch.from_numpy(labels),
        "loss_mask": torch.from_numpy(learned),
    }
