"""Cell type annotation: one of the labels, with a probability (SPEC §4.1 task 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.analysis.cells import (
    cells_for_model,
    claim,
    condition_texts,
    record,
    target,
)
from c2s.common.errors import InputError, UsageError
from c2s.common.progress import progress_bar
from c2s.decoding.engine import Engine
from c2s.decoding.opening import EngineName, open_engine
from c2s.decoding.prompts import label_prompts
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
    engine: EngineName | Engine = "transformers",
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
        Candidates; by default all that the model was trained on. One it never saw is named in a warning.
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
    engine
        What runs the model: "transformers", "vllm", or an open engine. The answers are the same, up to rounding.

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
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise UsageError(f"min_confidence={min_confidence} is not possible; it is between 0 and 1")
    if top_n is not None and top_n < 1:
        raise UsageError(f"top_n={top_n} is not possible; it is at least 1")
    temperature = model_temperature(model, temperature)
    adata = target(adata, copy)
    top_key = None if top_n is None else f"{key_added}_top"
    slots = {
        "obs": [key_added, confidence_key, *([entropy_key] if entropy_key else [])],
        "obsm": [key for key in (probabilities_key, top_key) if key is not None],
    }
    for slot, keys in slots.items():
        for key in keys:
            claim(adata, "annotate", slot, key)
    labels = candidates(model, labels, strict)
    if min_confidence is not None and unknown in labels:
        raise UsageError(f"unknown={unknown!r} is one of the labels; give another name")
    probabilities = label_probabilities(
        adata, model, labels, organism=organism, views=views, top_k=top_k, genes=genes, layer=layer,
        gene_names=gene_names, batch_size=batch_size, seed=seed, temperature=temperature, engine=engine,
    )  # fmt: skip
    confidence = probabilities.max(1)
    adata.obs[key_added] = _best(probabilities, labels, min_confidence, unknown)
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
    }  # fmt: skip
    record(adata, "annotate", model.source, parameters, slots["obs"] + slots["obsm"])
    return adata if copy else None


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
    engine: EngineName | Engine = "transformers",
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
        gene_names=gene_names, batch_size=batch_size, seed=seed, engine=engine,
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
    engine: EngineName | Engine = "transformers",
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
    opened = open_engine(model, engine, batch_size)
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    response = model.prompts.wording(CELL_TYPE.id).response
    answers = [
        [
            *model.tokenizer.encode(response.fill({"cell_type": label})).tolist(),
            model.tokenizer.eos_id,
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
            prompts = label_prompts(model, CELL_TYPE, cells, texts, rows, view, seed)
            scores[view, rows] = opened.score(prompts, answers, progress)
    return scores


def candidates(model: Model, labels: Sequence[str] | None, strict: bool = False) -> list[str]:
    """Return the labels to choose from as the model knows them, by default all that it was trained on.

    Raises
    ------
    UsageError
        There are none, or `strict` and the model never saw one.
    InputError
        Two are the same for the model.
    """
    if labels is None:
        labels = model.known(CELL_TYPE.target)
        if not labels:
            raise UsageError("the model remembers no labels; give labels=[…]")
    if isinstance(labels, str):
        raise UsageError("labels must be a list of texts")
    checked = [
        model.check_condition(CELL_TYPE.target, str(label), strict=strict) for label in labels
    ]
    if len(set(checked)) != len(checked) or not checked:
        raise InputError("labels must be a list of different texts, at least one")
    return checked
