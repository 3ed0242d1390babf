"""Cell type annotation: one of the labels, with a probability (SPEC §4.1 task 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.analysis.cells import (
    cells_for_model,
    claim,
    condition_texts,
    opened_for,
    record,
    target,
)
from c2s.analysis.label_terms import BackOff, candidates_below, ontology_for
from c2s.common.errors import InputError, UsageError
from c2s.common.progress import progress_bar
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_prompts
from c2s.knowledge.ontology import Ontology, TermsAbove
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData


def annotate(
    adata: AnnData,
    model: Model,
    labels: Sequence[str] | None = None,
    *,
    key_added: str = "c2s_cell_type",
    confidence_key: str = "c2s_confidence",
    probabilities_key: str | None = None,
    top_n: int | None = None,
    entropy_key: str | None = None,
    min_confidence: float | None = None,
    unknown: str = "unknown",
    ontology: Ontology | str | os.PathLike[str] | None = None,
    labels_below: str | None = None,
    every_term: bool = False,
    back_off: bool = False,
    temperature: float | None = None,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Name the type of every cell, from a list of labels, with a probability.

    The probability of a label is exact: the model's probability of writing it (and then ending) behind the
    cell, divided by the sum over all labels. Nothing outside the list is ever answered.

    Parameters
    ----------
    adata
        Counts or normalised expression. `X` is not changed.
    model
        Trained on annotation.
    labels
        Candidates; by default all that the model was trained on. One it never saw is named in a warning. A released
        checkpoint remembers none, and must be given them.
    key_added, confidence_key
        Columns of `obs` that get the label and its probability. A cell without any known gene gets neither.
    probabilities_key
        Where given, `obsm` gets a table of the probabilities of all labels under this name.
    top_n
        Where given, `obsm[key_added + "_top"]` gets a table of so many labels with their probabilities, the most
        probable first: columns `label_1`, `probability_1`, `label_2`, …
    entropy_key
        Where given, a column of `obs` for the entropy of the probabilities in nats: 0 where the model is sure,
        ln(number of labels) where all are alike.
    min_confidence
        Where given, a cell whose best label has a probability below it gets `unknown` instead. The probability
        of its best label stays in `confidence_key`, and the label itself in the other tables.
    unknown
        What such a cell is called; no label may have this name.
    ontology
        What the labels are kinds of, such as the Cell Ontology: an `Ontology`, or a file as `read_ontology` takes it.
        It must know the labels by name or synonym, or by labels of your own that were read with it. Where given,
        `obsm[key_added + "_ancestors"]` gets a table of the probabilities of all terms above the labels (`roll_up`).
    labels_below
        A term, such as "lymphocyte" or "CL:0000542", instead of `labels`: the candidates are the labels below it that
        the model was trained on. Without `ontology` it is the Cell Ontology of the extra `ontology`.
    every_term
        Take every term below `labels_below`, whether or not the model was trained on it.
    back_off
        A cell whose best label has a probability below `min_confidence` gets the most specific term of the ontology
        whose probability, summed over the labels below it, reaches that, and `unknown` only if none but the root
        does. `confidence_key` then holds the probability of the answer.
    temperature
        Divides log p of every label before they are normalised: above 1 the model is less sure. By default what
        `calibrate` found for this model, else 1.
    organism
        By default `obs["organism"]`, or the only one that the model knows.
    views
        Average the probabilities over this many wordings of the prompt, each with its own draw of ties.
        More views cost as many times the work and are a little more accurate.
    top_k, genes, layer, gene_names
        Which genes are shown to the model; see `c2s.pp.cell_sentences`.
    batch_size
        Cells in a batch; by default what fits the machine.
    strict
        Refuse labels that the model never saw.
    seed
        Draws ties, and wordings beyond the first view.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        The copy, if `copy`.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    UsageError
        The model was not trained on annotation, the keys hold something else, or a number cannot work.

    See Also
    --------
    calibrate : make the probabilities as large as the answers are often right.

    Examples
    --------
    >>> model = c2s.load_model("demo/model")  # doctest: +SKIP
    >>> c2s.tl.annotate(adata, model)  # doctest: +SKIP
    >>> adata.obs["c2s_cell_type"].value_counts()  # doctest: +SKIP
    """
    check_model(model, views)
    _check_numbers(min_confidence, top_n)
    temperature = model_temperature(model, temperature)
    ontology = ontology_for(ontology, labels, labels_below, every_term, back_off, min_confidence)
    adata = target(adata, copy)
    ancestors_key = None if ontology is None else f"{key_added}_ancestors"
    top_key = None if top_n is None else f"{key_added}_top"
    slots = {
        "obs": [key_added, confidence_key, *([entropy_key] if entropy_key else [])],
        "obsm": [key for key in (probabilities_key, top_key, ancestors_key) if key is not None],
    }
    for slot, keys in slots.items():
        for key in keys:
            claim(adata, "annotate", slot, key)
    if ontology is None or labels_below is None:
        labels = candidates(model, labels, strict)
    else:
        labels = candidates_below(model, ontology, labels_below, every=every_term, strict=strict)
    if min_confidence is not None and unknown in labels:
        raise UsageError(f"unknown={unknown!r} is one of the labels; give another name")
    probabilities = label_probabilities(
        adata, model, labels, organism=organism, views=views, top_k=top_k, genes=genes, layer=layer,
        gene_names=gene_names, batch_size=batch_size, seed=seed, temperature=temperature,
    )  # fmt: skip
    answers, confidence = (
        _best(probabilities, labels, min_confidence, unknown),
        probabilities.max(1),
    )
    if ontology is not None:
        above = TermsAbove(labels, ontology)
        rolled = above.sums(probabilities)
        adata.obsm[f"{key_added}_ancestors"] = pd.DataFrame(
            rolled, index=adata.obs_names, columns=above.columns
        )
        if back_off and min_confidence is not None:
            surer = BackOff(labels, above, ontology, min_confidence)
            codes, confidence = surer.choose(probabilities, rolled)
            codes[(codes < 0) & ~np.isnan(confidence)] = len(surer.answers)
            categories = pd.Index([*surer.answers, unknown])
            answers = pd.Categorical.from_codes(codes, categories=categories)
    adata.obs[key_added] = answers
    adata.obs[confidence_key] = confidence
    if entropy_key is not None:
        adata.obs[entropy_key] = _entropy(probabilities)
    if probabilities_key is not None:
        adata.obsm[probabilities_key] = pd.DataFrame(
            probabilities, index=adata.obs_names, columns=labels
        )
    if top_n is not None:
        adata.obsm[f"{key_added}_top"] = _top(probabilities, labels, top_n, adata.obs_names)
    parameters = {
        "labels": labels, "views": views, "top_k": model.card.top_k if top_k is None else top_k, "layer": layer,
        "seed": seed, "min_confidence": min_confidence, "temperature": None if temperature == 1 else temperature,
        "labels_below": labels_below, "back_off": back_off or None,
    }  # fmt: skip
    record(adata, "annotate", model.source, parameters, slots["obs"] + slots["obsm"])
    return adata if copy else None


def _check_numbers(min_confidence: float | None, top_n: int | None) -> None:
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise UsageError(f"min_confidence={min_confidence} is not possible; it is between 0 and 1")
    if top_n is not None and top_n < 1:
        raise UsageError(f"top_n={top_n} is not possible; it is at least 1")


def _best(
    probabilities: np.ndarray, labels: list[str], min_confidence: float | None, unknown: str
) -> pd.Categorical[str]:
    """Return the most probable label of each cell, or `unknown`; missing for a cell without probabilities."""
    known = ~np.isnan(probabilities[:, 0])
    best = np.where(known, np.nan_to_num(probabilities).argmax(1), -1)
    if min_confidence is None:
        return pd.Categorical.from_codes(best, categories=pd.Index(labels))
    best[known & (probabilities.max(1) < min_confidence)] = len(labels)
    return pd.Categorical.from_codes(best, categories=pd.Index([*labels, unknown]))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return −Σ p ln p of each row, in nats; NaN for a row of NaN. float64, shape (n_cells,)."""
    logs = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return np.abs(-(probabilities * logs).sum(1))  # no −0


def _top(
    probabilities: np.ndarray, labels: list[str], top_n: int, index: pd.Index[str]
) -> pd.DataFrame:
    """Return the most probable labels of each cell with their probabilities, missing for a row of NaN."""
    known = ~np.isnan(probabilities[:, 0])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_n]
    table = {}
    for rank, column in enumerate(order.T, start=1):
        codes = np.where(known, column, -1)
        table[f"label_{rank}"] = pd.Categorical.from_codes(codes, categories=pd.Index(labels))
        table[f"probability_{rank}"] = probabilities[np.arange(len(column)), column]
    return pd.DataFrame(table, index=index)


def check_model(model: Model, views: int) -> None:
    """Refuse a model that cannot annotate, and a number of views that cannot be.

    Raises
    ------
    UsageError
        One of these.
    """
    if CELL_TYPE.id not in model.card.tasks:
        raise UsageError(
            f"the model was not trained on annotation; its tasks: {', '.join(model.card.tasks) or 'none'}"
        )
    if views < 1:
        raise UsageError(f"views={views} is not possible; it is at least 1")


def model_temperature(model: Model, temperature: float | None = None) -> float:
    """Return the temperature asked for, else what `calibrate` found for the model, else 1.

    Raises
    ------
    UsageError
        The temperature is not above 0.
    """
    if temperature is None:
        return model.card.calibration.get("temperature", 1.0)
    if not 0 < temperature < np.inf:
        raise UsageError(f"temperature={temperature} is not possible; it is above 0")
    return temperature


def label_probabilities(
    adata: AnnData,
    model: Model,
    labels: Sequence[str],
    *,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    temperature: float | None = None,
) -> np.ndarray:
    """Return the probability of each label for each cell; NaN for a cell without any known gene.

    Parameters are those of `annotate`.

    Returns
    -------
    float64 array, shape (n_cells, n_labels)
        Rows sum to 1.

    Raises
    ------
    InputError, UsageError
        As `annotate`.
    """
    temperature = model_temperature(model, temperature)
    scores = label_scores(
        adata, model, labels, organism=organism, views=views, top_k=top_k, genes=genes, layer=layer,
        gene_names=gene_names, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return probabilities_of(scores, temperature)


def probabilities_of(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities that log p of labels stand for: softmax(scores / temperature), averaged over views.

    Parameters
    ----------
    scores : float64 array, shape (n_views, n_cells, n_labels)

    Returns
    -------
    float64 array, shape (n_cells, n_labels)
    """
    scaled = (scores - scores.max(2, keepdims=True)) / temperature
    odds = np.exp(scaled)
    return np.asarray((odds / odds.sum(2, keepdims=True)).mean(0))


def label_scores(
    adata: AnnData,
    model: Model,
    labels: Sequence[str],
    *,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return log p of writing each label and then ending, behind each cell; NaN for one without any known gene.

    Parameters are those of `annotate`. The log-probabilities are exact and not normalised over the labels.

    Returns
    -------
    float64 array, shape (n_views, n_cells, n_labels)

    Raises
    ------
    InputError, UsageError
        As `annotate`.
    """
    model = opened_for(adata, model, layer=layer, gene_names=gene_names)
    engine = TransformersEngine(model, batch_size)
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    response = model.prompts.wording(CELL_TYPE.id).response
    answers = [
        [
            *model.tokenizer.encode(response.fill({"cell_type": label})).tolist(),
            *model.end_ids,
        ]
        for label in labels
    ]
    scores = np.full((views, adata.n_obs, len(labels)), np.nan)
    with progress_bar("Annotating", adata.n_obs * views) as progress:
        for view in range(views):
            cells = cells_for_model(
                adata,
                model,
                top_k=top_k,
                genes=genes,
                layer=layer,
                seed=seed + view,
                gene_names=gene_names,
            )
            rows = np.flatnonzero(cells.lengths > 0)
            prompts = label_prompts(model, CELL_TYPE, cells, texts, rows, view, seed, top_k)
            scores[view, rows] = engine.score(prompts, answers, progress)
    return scores


def candidates(
    model: Model,
    labels: Sequence[str] | None,
    strict: bool = False,
    condition: str = CELL_TYPE.target,
) -> list[str]:
    """Return the labels to choose from as the model knows them, by default all that it was trained on.

    `condition` is what they are labels of: "cell_type" or "tissue".

    Raises
    ------
    UsageError
        There are none, or `strict` and the model never saw one.
    InputError
        Two are the same for the model.
    """
    if labels is None:
        labels = model.known(condition)
        if not labels:
            raise UsageError("the model remembers no labels; give labels=[…]")
    if isinstance(labels, str):
        raise UsageError("labels must be a list of texts")
    checked = [model.check_condition(condition, str(label), strict=strict) for label in labels]
    if len(set(checked)) != len(checked) or not checked:
        raise InputError("labels must be a list of different texts, at least one")
    return checked
