"""Answers that were written, walked through again: their tokens, and what else might have stood at each place.

A policy that writes under a constraint is the network's distribution renormalised to what is allowed, token by token.
Its log-probabilities need the allowed tokens of every place of a given answer, which is what `choices_of` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.constraints import kernels
from c2s.constraints.free_text import FreeText, FreeTextState
from c2s.constraints.gene_list import GeneList, GeneListState
from c2s.constraints.trie import (
    Constraint,
    GeneSentence,
    GeneSentenceState,
    OneOf,
    OneOfState,
    TokenState,
)


@dataclass(frozen=True)
class Choices:
    """What might have been written at each place of some answers.

    Attributes
    ----------
    tokens : int64, shape (n_columns,)
        Token ids, ascending; all that is ever allowed is among them.
    sets : bool, shape (n_sets, n_columns)
        What might have stood at some place or other; places may share a set, as those of free text do.
    which : int64, shape (n_answers, longest)
        The set of each place; −1 behind the end of an answer.
    taken : int64, shape (n_answers, longest)
        The column of the token that stands there; 0 behind the end.
    """

    tokens: np.ndarray
    sets: np.ndarray
    which: np.ndarray
    taken: np.ndarray


def answer_tokens(constraint: Constraint, state: TokenState) -> list[int]:
    """Return the tokens of a finished answer, with the end where it was written.

    A cell sentence has no end of its own where its last gene leaves nothing else to write.

    Raises
    ------
    UsageError
        Answers of this kind do not keep what was written.
    """
    if isinstance(constraint, GeneSentence) and isinstance(state, GeneSentenceState):
        return constraint.tokens_of(state.genes) + (
            [constraint.end_token] if state.ended_by_token else []
        )
    if isinstance(constraint, OneOf) and isinstance(state, OneOfState):
        return [*constraint.sequences[state.item], constraint.end_token]
    if isinstance(constraint, GeneList) and isinstance(state, GeneListState):
        genes = [token for gene in state.genes for token in constraint.trie.sequences[gene]]
        return [*genes, constraint.end_token]
    if isinstance(constraint, FreeText) and isinstance(state, FreeTextState):
        return state.tokens + ([constraint.end_token] if state.ended else [])
    raise UsageError(f"answers of {type(constraint).__name__} do not keep their tokens")


def choices_of(constraint: Constraint, answers: Sequence[np.ndarray]) -> Choices:
    """Return what the constraint allowed at each place of answers that it was kept to.

    Parameters
    ----------
    constraint
        What the answers may be.
    answers : sequence of int arrays
        Token ids of each, as `answer_tokens` gives them.

    Raises
    ------
    InputError
        An answer has a token that is not allowed where it stands.
    """
    longest = max(map(len, answers), default=0)
    if isinstance(constraint, GeneSentence):
        return _of_sentences(constraint, answers, longest)
    steps = [_walk(constraint, answer) for answer in answers]
    # Each once: in free text the same array, as long as the vocabulary, stands at every place.
    every = {id(tokens): tokens for answer in steps for tokens in answer}
    tokens = (
        np.unique(np.concatenate(list(every.values()))) if every else np.empty(0, dtype=np.int64)
    )
    sets = np.zeros((len(every), len(tokens)), np.bool_)
    for row, found in enumerate(every.values()):
        sets[row, np.searchsorted(tokens, found)] = True
    number = {key: row for row, key in enumerate(every)}
    which = np.full((len(answers), longest), -1, np.int64)
    taken = np.zeros((len(answers), longest), np.int64)
    for row, (answer, own) in enumerate(zip(answers, steps, strict=True)):
        taken[row, : len(answer)] = np.searchsorted(tokens, answer)
        which[row, : len(answer)] = [number[id(found)] for found in own]
    return Choices(tokens, sets, which, taken)


def _walk(constraint: Constraint, answer: np.ndarray) -> list[np.ndarray]:
    """Return the allowed token ids of each place of an answer."""
    state, found = constraint.start(), []
    for place, token in enumerate(np.asarray(answer).tolist()):
        tokens = state.allowed()
        at = int(np.searchsorted(tokens, token))
        if state.done or at == len(tokens) or tokens[at] != token:
            raise _not_allowed(token, place)
        found.append(tokens)
        state.advance(token)
    return found


def _of_sentences(constraint: GeneSentence, answers: Sequence[np.ndarray], longest: int) -> Choices:
    """Walk cell sentences, compiled."""
    tokens = constraint.tokens
    lengths = np.array([len(a) for a in answers], np.int64)
    columns = np.zeros((len(answers), longest), np.int64)
    for row, answer in enumerate(answers):
        at = np.minimum(np.searchsorted(tokens, answer), len(tokens) - 1)
        wrong = np.flatnonzero(tokens[at] != answer)
        if len(wrong):
            raise _not_allowed(int(answer[wrong[0]]), int(wrong[0]))
        columns[row, : len(answer)] = at
    allowed = np.zeros((len(answers), longest, len(tokens)), np.bool_)
    bad = kernels.replay(constraint.arrays, constraint.start_many(len(answers)), columns, lengths, allowed)  # fmt: skip
    if bad >= 0:
        row, place = divmod(int(bad), max(longest, 1))
        raise _not_allowed(int(answers[row][place]), place)
    which = np.arange(columns.size).reshape(columns.shape)
    which[np.arange(longest) >= lengths[:, None]] = -1
    return Choices(tokens, allowed.reshape(-1, len(tokens)), which, columns)


def _not_allowed(token: int, place: int) -> InputError:
    return InputError(
        f"token {token} at place {place} of the answer is not what the constraint allows there"
    )
