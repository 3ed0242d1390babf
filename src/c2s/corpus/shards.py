"""Token shards: Arrow files, one row a sample, memory-mapped; and how samples are packed into sequences.

Columns: `tokens` (prompt, response and end-of-text), `prompt_length` (tokens before the response, so response-only
training learns at positions from there on), `task`, `wording` (which prompt), `sequence` (samples of one packed
sequence stand together and have at most `context` tokens in all), `study`, `cells` (rows of the source). What holds
for the whole shard is JSON in the schema's metadata under `c2s`.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from c2s.common.errors import InputError
from c2s.common.files import atomic_file
from c2s.common.seeds import generator
from c2s.corpus.sampling import Sample
from c2s.tasks.registry import TASKS
from c2s.tokens.assemble import TokenBatch

#: Changes when the layout of shards does.
LAYOUT = 1

#: Tokens that are held in memory at a time while a shard is written.
_BATCH_TOKENS = 1 << 22


@dataclass(frozen=True)
class ShardFacts:
    """What holds for a whole shard."""

    source: str
    """SHA-256 of the cells' file, or of the gene sets'."""
    split: str
    context: int
    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    end_of_text: int
    vocab_size: int
    layout: int = LAYOUT


def pack(
    lengths: np.ndarray, context: int, keys: Sequence[str | int], seed: int
) -> list[list[int]]:
    """Pack samples into sequences of at most `context` tokens: best fit, the longest first.

    Parameters
    ----------
    lengths : int64, shape (n_samples,)
        Tokens of each sample, none above `context`.
    keys, seed
        Draw the order of the sequences, and of the samples within each.

    Returns
    -------
    list of list of int
        The samples of each sequence.
    """
    rng = generator(seed, "pack", *keys)
    ties = rng.permutation(len(lengths))
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, sequence), ascending
    for i in ties[np.argsort(-lengths[ties], kind="stable")].tolist():
        length = int(lengths[i])
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            left, sequence = context, len(sequences)
            sequences.append([])
        else:
            left, sequence = room.pop(at)
        sequences[sequence].append(i)
        if left > length:
            bisect.insort(room, (left - length, sequence))
    return [
        [sequences[s][i] for i in rng.permutation(len(sequences[s]))]
        for s in rng.permutation(len(sequences))
    ]


def write_shard(
    path: Path,
    facts: ShardFacts,
    samples: Sequence[Sample],
    batch: TokenBatch,
    sequences: Sequence[Sequence[int]],
    studies: Sequence[str | None],
    cells: np.ndarray | None,
) -> None:
    """Write a token shard; the file is whole or absent.

    Parameters
    ----------
    samples, batch
        What was drawn, and its tokens.
    sequences
        The samples of each packed sequence.
    studies, cells
        Study and row in the source of each row that samples name; `cells` is None for gene sets.
    """
    names = sorted({s for s in studies if s is not None})
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _schema(facts)) as writer,
    ):
        for first, last in _batches(batch.lengths, sequences):
            part = sequences[first:last]
            order = np.array([i for s in part for i in s], np.int64)
            tokens, offsets = batch.write(order)
            chosen = [samples[i] for i in order.tolist()]
            rows = np.fromiter(chain.from_iterable(s.rows for s in chosen), np.int64)
            ends = np.cumsum([0, *(len(s.rows) for s in chosen)])
            columns = [
                _lists(tokens.astype(_token_type(facts)), offsets),
                pa.array(batch.prompt_lengths[order].astype(np.int32)),
                _coded([s.task for s in chosen], list(TASKS), pa.int8()),
                pa.array([s.wording for s in chosen], pa.int16()),
                pa.array(
                    np.repeat(np.arange(first, last), [len(s) for s in part]).astype(np.int32)
                ),
                _coded([studies[s.rows[0]] for s in chosen], names, pa.int32()),
                _lists(rows[:0], ends * 0) if cells is None else _lists(cells[rows], ends),
            ]
            writer.write_batch(pa.record_batch(columns, schema=_schema(facts)))


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values))


def _coded(
    texts: Sequence[str | None], names: Sequence[str], codes: pa.DataType
) -> pa.DictionaryArray:
    """Return texts as codes into the given names; every batch of a file must have the same."""
    code = {name: k for k, name in enumerate(names)}
    found = pa.array([None if t is None else code[t] for t in texts], codes)
    return pa.DictionaryArray.from_arrays(found, pa.array(names, pa.string()))


def _batches(lengths: np.ndarray, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of sequences of about `_BATCH_TOKENS` tokens."""
    first = tokens = 0
    for k, sequence in enumerate(sequences):
        tokens += int(lengths[list(sequence)].sum())
        if tokens >= _BATCH_TOKENS:
            yield first, k + 1
            first, tokens = k + 1, 0
    if first < len(sequences):
        yield first, len(sequences)


def _token_type(facts: ShardFacts) -> type[np.unsignedinteger]:
    return np.uint16 if facts.vocab_size <= 1 << 16 else np.uint32


def _schema(facts: ShardFacts) -> pa.Schema:
    return pa.schema(
        [
            ("tokens", pa.list_(pa.uint16() if facts.vocab_size <= 1 << 16 else pa.uint32())),
            ("prompt_length", pa.int32()),
            ("task", pa.dictionary(pa.int8(), pa.string())),
            ("wording", pa.int16()),
            ("sequence", pa.int32()),
            ("study", pa.dictionary(pa.int32(), pa.string())),
            ("cells", pa.list_(pa.int64())),
        ],
        metadata={"c2s": json.dumps(asdict(facts), sort_keys=True)},
    )


def _read_facts(path: Path, schema: pa.Schema) -> ShardFacts:
    """Return what the file says of itself."""
    try:
        content = dict(json.loads((schema.metadata or {})[b"c2s"]))
        if content["layout"] == LAYOUT:
            return ShardFacts(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a token shard (it does not say what c2s writes into its schema)"
        ) from error
    raise InputError(
        f"{path}: has layout {content['layout']}; this version reads layout {LAYOUT}; build the corpus anew"
    )


def _refuse_damaged(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
    """Refuse columns that point outside of themselves: Arrow trusts them, and a damaged file would end the process."""
    for batch in batches:
        if not batch.schema.equals(schema):
            raise pa.ArrowInvalid("its columns are not those of a token shard")
        batch.validate(full=True)
        for column in batch.columns:
            if isinstance(column, pa.DictionaryArray):
                column.dictionary.validate(full=True)


class TokenShard:
    """A token shard on disk, memory-mapped: nothing is read until it is asked for.

    Attributes
    ----------
    facts
        What holds for the whole shard.
    sample_starts : int64 array, shape (n_sequences + 1,)
        The first sample of each packed sequence.

    Raises
    ------
    InputError
        The file is missing or no token shard.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._map = pa.memory_map(str(path))
            file = pa.ipc.open_file(self._map)
            self._batches = [file.get_batch(k) for k in range(file.num_record_batches)]
            self.facts = _read_facts(self.path, file.schema)
            _refuse_damaged(self._batches, _schema(self.facts))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: cannot be read as a token shard ({reason})") from error
        self._starts = np.concatenate([[0], np.cumsum([b.num_rows for b in self._batches])])
        sequence = self.column("sequence").to_numpy() if len(self) else np.empty(0, np.int32)
        self.sample_starts = np.concatenate(
            [np.flatnonzero(np.diff(sequence, prepend=-1)), [len(self)]]
        ).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def n_sequences(self) -> int:
        """Number of packed sequences."""
        return len(self.sample_starts) - 1

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all samples."""
        return pa.chunked_array(
            [b.column(name) for b in self._batches], type=_schema(self.facts).field(name).type
        )

    def tokens(self, i: int) -> np.ndarray:
        """Return the tokens of sample `i`, end-of-text included: a view of the file. shape (n_tokens,)."""
        batch = int(np.searchsorted(self._starts, i, side="right")) - 1
        column = self._batches[batch].column("tokens")
        at = i - int(self._starts[batch])
        start, stop = column.offsets[at].as_py(), column.offsets[at + 1].as_py()
        return column.values.to_numpy()[start:stop]

    def prompt_length(self, i: int) -> int:
        """Return how many tokens of sample `i` stand before its response."""
        batch = int(np.searchsorted(self._starts, i, side="right")) - 1
        return int(
            self._batches[batch].column("prompt_length")[i - int(self._starts[batch])].as_py()
        )

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of every sample. int64, shape (n_samples,)."""
        parts = [np.diff(b.column("tokens").offsets.to_numpy()) for b in self._batches]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def close(self) -> None:
        """Let go of the file."""
        self._batches = []
        self._map.close()
