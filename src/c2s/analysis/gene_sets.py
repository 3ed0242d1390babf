"""Gene sets: a name for a list of genes, and genes for a name (SPEC §4.1, tasks 11 and 12; §4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from c2s.analysis.annotate import probabilities_of
from c2s.common.errors import InputError, UsageError, listing, nearest, warn
from c2s.constraints.free_text import FreeText, FreeTextState
from c2s.constraints.gene_list import GeneList, GeneListState
from c2s.constraints.trie import Constraint, GeneSentence, GeneSentenceState
from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_answers
from c2s.decoding.sampling import Sampling
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tasks.gene_sets import GENE_SET_ENUMERATION, GENE_SET_NAMING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GeneSetName:
    """What a model calls a gene set.

    Attributes
    ----------
    name
        The answer.
    probability
        Of this name among the names to choose from; of free text, of writing just this and ending.
    ended
        Whether the model ended the text itself; False where it was cut off.
    probabilities
        Of all names to choose from, the most probable first; None for free text.
    """

    name: str
    probability: float
    ended: bool = True
    probabilities: pd.Series[float] | None = None


def name_gene_set(
    genes: Sequence[str],
    model: Model,
    names: Sequence[str] | None = None,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> GeneSetName:
    """Name a gene set: in the model's own words, or by one of given names with its exact probability.

    Parameters
    ----------
    genes
        Symbols, shown to the model in this order. Those that it does not know are named in a warning and left out.
    model
        Trained on naming gene sets.
    names
        Names to choose from; by default any text is written.
    max_tokens
        Where a text is cut off, in tokens.
    temperature, top_p
        Of sampling a text. At temperature 0 the most probable token is taken each time.
    seed
        Decides the draws.

    Returns
    -------
    GeneSetName

    Raises
    ------
    UsageError
        The model was not trained on naming gene sets, genes and name do not fit into its context, or two names are the
        same.
    InputError
        The model knows none of the genes.

    Examples
    --------
    >>> c2s.tl.name_gene_set(["INS", "GCG", "SST"], model).name  # doctest: +SKIP
    >>> c2s.tl.name_gene_set(["INS", "GCG", "SST"], model, ["islet hormones", "ribosome"])  # doctest: +SKIP
    """
    _check(model, GENE_SET_NAMING)
    columns = known_genes(model, genes)
    wording = model.prompts.wording(GENE_SET_NAMING.id)
    prompt = model.encode_prompt(GENE_SET_NAMING.ask(wording.prompts[0], {}, columns, len(columns)))
    engine = TransformersEngine(model)
    if names is not None:
        return _chosen(model, engine, prompt, names)
    backend, end = model.tokenizer.backend, model.tokenizer.eos_id
    free = FreeText(len(backend), end, max_tokens, set(backend.all_special_ids) - {end})
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    state = cast(FreeTextState, engine.generate([prompt], free, sampling)[0])
    written = [*state.tokens, end] if state.ended else state.tokens
    probability = float(np.exp(engine.score([prompt], [written])[0, 0]))
    text = wording.bare(model.tokenizer.decode(state.tokens))
    if not state.ended:
        warn(f"the name was cut off after {max_tokens:,} tokens: {text[:40]!r}")
    return GeneSetName(text, probability, state.ended)


def _chosen(
    model: Model, engine: TransformersEngine, prompt: np.ndarray, names: Sequence[str]
) -> GeneSetName:
    """Return the most probable of some names."""
    import pandas as pd

    if isinstance(names, str) or not len(names):
        raise UsageError("names=[…] must be a list of texts, at least one")
    if len(set(names)) != len(names):
        raise UsageError("names=[…] must be different texts")
    answers = label_answers(model, GENE_SET_NAMING, [str(name) for name in names])
    found = probabilities_of(engine.score([prompt], answers)[None], 1.0)[0]
    table = pd.Series(found, index=pd.Index(list(names), name="name"), name="probability")
    table = table.sort_values(ascending=False, kind="stable")
    return GeneSetName(str(table.index[0]), float(table.iloc[0]), True, table)


def enumerate_gene_set(
    name: str,
    model: Model,
    n: int = 50,
    *,
    own_end: bool = False,
    genes: Sequence[str] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """List the genes of a gene set: genes that the model knows, none twice.

    Parameters
    ----------
    name
        Of the set, as "hallmark interferon alpha response".
    model
        Trained on enumerating gene sets.
    n
        Genes that are asked for. The answer has exactly as many,
    own_end
        or, where this is true, as many as the model finds right, at most `n`.
    genes
        Only these may be listed; by default all that the model knows.
    temperature, top_p
        Of sampling. At temperature 0 the most probable token is taken each time.
    seed
        Decides the draws.

    Returns
    -------
    list of str
        Symbols as the model writes them, in the order of its answer.

    Raises
    ------
    UsageError
        The model was not trained on enumerating gene sets, there are fewer genes than `n`, or they do not fit into its
        context.
    InputError
        The model knows none of `genes`.

    Examples
    --------
    >>> c2s.tl.enumerate_gene_set("islet hormones", model, n=5)  # doctest: +SKIP
    """
    _check(model, GENE_SET_ENUMERATION)
    if not name.strip():
        raise UsageError("the name of the gene set is empty")
    if n < 1:
        raise UsageError(f"n={n} is not possible; it is at least 1")
    columns = np.arange(len(model.vocabulary)) if genes is None else known_genes(model, genes)
    if own_end:
        n = min(n, len(columns))
    wording = model.prompts.wording(GENE_SET_ENUMERATION.id)
    choice = GeneChoice(columns, n, np.empty(0, np.int64))
    begin, sentence = answer_constraint(
        model, texts_around(GENE_SET_ENUMERATION, wording, 1), choice
    )
    sentence = cast(GeneSentence, sentence)
    constraint: Constraint = sentence
    if own_end:
        if sentence.arrays.start:
            raise UsageError(
                "own_end: the wording of the answer has no space before its first gene; ask for a number of genes"
            )
        constraint = GeneList(sentence.trie, n, sentence.end_token)
    values = {"gene_set": name.strip()}
    prompt = model.encode_prompt(
        GENE_SET_ENUMERATION.ask(wording.prompts[0], values, None, n, wording)
    )
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    prompt = np.append(prompt, begin)
    engine = TransformersEngine(model)
    state = engine.generate([prompt], constraint, sampling, None, len(begin))[0]
    found = cast("GeneListState | GeneSentenceState", state).genes
    return [model.vocabulary.words[int(columns[item])] for item in found]


def known_genes(model: Model, genes: Sequence[str]) -> np.ndarray:
    """Return the columns of genes that the model knows, each once; a warning names the others.

    Raises
    ------
    UsageError
        `genes` is one text instead of a list.
    InputError
        It knows none.
    """
    if isinstance(genes, str):
        raise UsageError("genes must be a list of symbols")
    words = list(dict.fromkeys(str(gene).strip().upper() for gene in genes))
    columns = model.vocabulary.columns(words)
    unknown = [word for word, column in zip(words, columns, strict=True) if column < 0]
    if len(unknown) == len(words):
        close = nearest(words[0], model.vocabulary.words) if words else []
        raise InputError(
            f"the model knows none of the {len(words):,} genes ({listing(words, 5)})"
            + (f"; nearest to {words[0]}: {listing(close)}" if close else "")
        )
    if unknown:
        warn(
            f"the model does not know {len(unknown):,} of {len(words):,} genes: {listing(unknown, 5)}"
        )
    return columns[columns >= 0]


def _check(model: Model, task: Task) -> None:
    if task.id not in model.card.tasks:
        raise UsageError(
            f"the model was not trained on {task.id!r}; its tasks: {listing(model.card.tasks) or 'none'}"
        )
