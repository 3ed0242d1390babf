"""Cell type annotation: one of the labels, with a probability (SPEC §4.1 task 2)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from c2s.analysis.cells import (
    ModelCells,
    Rows,
    asked_with,
    condition_texts,
    label_columns,
    opened_for,
    target,
)
from c2s.analysis.label_terms import BackOff, candidates_below, ontology_for, ontology_name
from c2s.analysis.work import CHUNK, Columns, chunks, fill
from c2s.cells.sentences import report_empty, unique_cell_ids
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.progress import progress_bar
from c2s.decoding.engine import Engine
from c2s.decoding.opening import EngineName, engine_for, engine_name
from c2s.decoding.pathways import line_before, with_pathways
from c2s.decoding.prompts import label_answers, label_prompts
from c2s.decoding.sampling import Sampling
from c2s.knowledge.ontology import Ontology, TermsAbove
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData

#: Column of obs for the pathways that a model names before its answer, where no other is asked for.
PATHWAYS_KEY = "c2s_pathways"


def annotate(
    adata: AnnData,
    model: Model,
    labels: Sequence[str] | None = None,
    *,
    key_added: str = "c2s_cell_type",
    confidence_key: str = "c2s_confidence",
    probabilities_key: str | None = None,
    pathways_key: str = PATHWAYS_KEY,
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
    chunk_size: int = CHUNK,
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
        Counts or normalised expression, in memory or backed. `X` is not changed; results go to the object in memory.
    model
        Trained on annotation.
    labels
        Candidates; by default all that the model was trained on. One it never saw is named in a warning. A released
        checkpoint remembers none, and must be given them.
    key_added, confidence_key
        Columns of `obs` that get the label and its probability. A cell without any known gene gets neither.
    probabilities_key
        Where given, `obsm` gets a table of the probabilities of all labels under this name. Its columns are the labels,
        with "|" for "/", which a column of an `.h5ad` file cannot have in its name.
    top_n
        Where given, `obsm[key_added + "_top"]` gets a table of so many labels with their probabilities, the most
        probable first: columns `label_1`, `probability_1`, `label_2`, …
    pathways_key
        Column of `obs` for the pathways that the model names before the label ("hypoxia; apoptosis"), where it learned
        to; the most probable ones, in the first view. Empty for a cell without any known gene.
    entropy_key
        Where given, a column of `obs` for the entropy of the probabilities in nats: 0 where the model is sure,
        ln(number of labels) where all are alike.
    min_confidence
        Where given, a cell whose best label has a probability below it gets `unknown` instead. The probability
        of its best label stays in `confidence_key`, and the label itself in the other tables.
    unknown
        What such a cell is called; no label, or term that `back_off` may answer, may have this name.
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
    chunk_size
        Cells that are read, ranked and asked at a time. It bounds the memory that the work takes, and hardly changes
        how long it takes.
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
    c2s.tl.annotate_file : from file to file, for data of any size.

    Examples
    --------
    >>> model = c2s.load_model("demo/model")  # doctest: +SKIP
    >>> c2s.tl.annotate(adata, model)  # doctest: +SKIP
    >>> adata.obs["c2s_cell_type"].value_counts()  # doctest: +SKIP
    """
    adata = target(adata, copy)
    work = Annotation(
        Rows.of(adata, layer), model, labels, key_added=key_added, confidence_key=confidence_key,
        probabilities_key=probabilities_key, pathways_key=pathways_key, top_n=top_n, entropy_key=entropy_key,
        min_confidence=min_confidence, unknown=unknown, ontology=ontology, labels_below=labels_below,
        every_term=every_term, back_off=back_off, temperature=temperature, organism=organism, views=views, top_k=top_k,
        genes=genes, gene_names=gene_names, batch_size=batch_size, strict=strict, seed=seed, engine=engine,
    )  # fmt: skip
    fill(adata, work, chunk_size)
    return adata if copy else None


class Annotation:
    """Annotation as `Work`; parameters are those of `annotate`.

    Raises
    ------
    InputError, UsageError
        As `annotate`.
    """

    verb, title = "annotate", "Annotating"

    def __init__(
        self,
        rows: Rows,
        model: Model,
        labels: Sequence[str] | None = None,
        *,
        key_added: str = "c2s_cell_type",
        confidence_key: str = "c2s_confidence",
        probabilities_key: str | None = None,
        pathways_key: str = PATHWAYS_KEY,
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
        gene_names: Mapping[str, str] | str | None = None,
        batch_size: int | None = None,
        strict: bool = False,
        seed: int = 0,
        engine: EngineName | Engine = "transformers",
    ) -> None:
        check_model(model, views)
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise UsageError(
                f"min_confidence={min_confidence} is not possible; it is between 0 and 1"
            )
        if top_n is not None and top_n < 1:
            raise UsageError(f"top_n={top_n} is not possible; it is at least 1")
        self.rows, self.model, self.passes = rows, model, views
        self.temperature = model_temperature(model, temperature)
        found = ontology_for(ontology, labels, labels_below, every_term, back_off, min_confidence)
        if found is None or labels_below is None:
            self.labels = candidates(model, labels, strict)
        else:
            self.labels = candidates_below(
                model, found, labels_below, every=every_term, strict=strict
            )
        self.key, self.confidence_key, self.entropy_key = key_added, confidence_key, entropy_key
        self.probabilities_key, self.top_key = probabilities_key, f"{key_added}_top"
        self.min_confidence, self.unknown, self.top_n = min_confidence, unknown, top_n
        self._above = None if found is None else TermsAbove(self.labels, found)
        self._surer: BackOff | None = None
        if (
            found is not None
            and self._above is not None
            and back_off
            and min_confidence is not None
        ):
            self._surer = BackOff(self.labels, self._above, found, min_confidence)
        answers = self.labels if self._surer is None else self._surer.answers
        if min_confidence is not None and unknown in answers:
            raise UsageError(
                f"unknown={unknown!r} is one of the labels, or of the terms above them; give another name"
            )
        self.pathways_key = pathways_key if line_before(model, CELL_TYPE) else None
        self.ancestors_key = f"{key_added}_ancestors"
        obsm = {
            probabilities_key: probabilities_key, self.top_key: top_n, self.ancestors_key: self._above,
        }  # fmt: skip
        self.slots = {
            "obs": [
                key for key in (key_added, confidence_key, entropy_key, self.pathways_key) if key
            ],
            "obsm": [key for key, wanted in obsm.items() if key is not None and wanted is not None],
        }
        self._scorer = LabelScorer(
            rows, model, self.labels, organism=organism, views=views, top_k=top_k, genes=genes,
            gene_names=gene_names, batch_size=batch_size, seed=seed, engine=engine,
        )  # fmt: skip
        self.parameters = {
            "labels": self.labels, "views": views, "top_k": model.card.top_k if top_k is None else top_k,
            "layer": rows.layer, "seed": seed, "min_confidence": min_confidence, "top_n": top_n,
            "unknown": None if min_confidence is None else unknown,
            "temperature": None if self.temperature == 1 else self.temperature,
            "ontology": None if found is None else ontology_name(ontology, found, self.labels),
            "labels_below": labels_below, "every_term": every_term or None, "back_off": back_off or None,
            "engine": engine_name(engine), **asked_with(self._scorer.texts, genes, gene_names),
        }  # fmt: skip
        self._further = {"gene_names": gene_names, "keys": self.slots}

    def options(self) -> dict[str, Any]:
        """Return every parameter that decides what is said of a cell, by name."""
        names: dict[str, Any] = {}
        if self._above is not None:
            names["terms"] = self._above.by_label()
        if self._surer is not None:
            names["higher"] = self._surer.order()
        return {**self.parameters, **self._further, **names}

    def columns(
        self, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> Columns:
        """Return label, confidence and what else is wanted of the cells in rows `start` to `stop`."""
        names = self.rows.obs.index[start:stop]
        scores, pathways = self._scorer.answered(start, stop, progress)
        probabilities = probabilities_of(scores, self.temperature)
        answers = _best(probabilities, self.labels, self.min_confidence, self.unknown)
        confidence = probabilities.max(1)
        obsm: dict[str, np.ndarray | pd.DataFrame] = {}
        if self._above is not None:
            rolled = self._above.sums(probabilities)
            obsm[self.ancestors_key] = pd.DataFrame(
                rolled, index=names, columns=self._above.columns
            )
            if self._surer is not None:
                answers, confidence = self._surer.answered(probabilities, rolled, self.unknown)
        obs = {self.key: answers, self.confidence_key: confidence}
        if self.pathways_key:
            obs[self.pathways_key] = pathways
        if self.entropy_key:
            obs[self.entropy_key] = _entropy(probabilities)
        if self.probabilities_key is not None:
            obsm[self.probabilities_key] = pd.DataFrame(
                probabilities, index=names, columns=label_columns(self.labels)
            )
        if self.top_n is not None:
            obsm[self.top_key] = _top(probabilities, self.labels, self.top_n, names)
        return Columns(pd.DataFrame(obs, index=names), obsm, np.isnan(probabilities[:, 0]))

    def close(self) -> None:
        """Close the engine, unless it was given open."""
        self._scorer.close()


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
    scorer = LabelScorer(
        Rows.of(adata, layer), model, labels, organism=organism, views=views, top_k=top_k, genes=genes,
        gene_names=gene_names, batch_size=batch_size, seed=seed, engine=engine,
    )  # fmt: skip
    with closing(scorer), progress_bar("Annotating", adata.n_obs * views) as progress:
        parts = [scorer.scores(*rows, progress) for rows in chunks(adata.n_obs, CHUNK)]
    scores = np.concatenate(parts, axis=1)
    report_empty(np.isnan(scores[0, :, 0]), adata.obs_names)
    return scores


class LabelScorer:
    """Scores labels behind the cells of any rows; parameters are those of `annotate`. To be closed in the end.

    Raises
    ------
    InputError, UsageError
        As `annotate`.
    """

    def __init__(
        self,
        rows: Rows,
        model: Model,
        labels: Sequence[str],
        *,
        organism: str | None = None,
        views: int = 1,
        top_k: int | None = None,
        genes: Sequence[str] | str | None = None,
        gene_names: Mapping[str, str] | str | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        engine: EngineName | Engine = "transformers",
    ) -> None:
        unique_cell_ids(rows.obs.index)
        model = opened_for(rows.var, model, gene_names)
        self.rows, self.model, self.views, self.seed, self.top_k = rows, model, views, seed, top_k
        self._cells = ModelCells(rows.var, model, top_k=top_k, genes=genes, gene_names=gene_names)
        self.texts = condition_texts(rows, model, CELL_TYPE, {"organism": organism})
        self._answers = label_answers(model, CELL_TYPE, labels)
        # Last: what fails before leaves nothing open.
        self._opened = ExitStack()
        self._engine = self._opened.enter_context(engine_for(model, engine, batch_size))

    def close(self) -> None:
        """Close the engine, unless it was given open."""
        self._opened.close()

    def scores(
        self, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Return log p of each label behind the cells in rows `start` to `stop`; see `label_scores`."""
        return self.answered(start, stop, progress)[0]

    def answered(
        self, start: int, stop: int, progress: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same, and the pathways that the model names before a label, in the first view.

        Returns
        -------
        scores : float64 array, shape (n_views, n_cells, n_labels)
        pathways : object array of str, shape (n_cells,)
            Empty where the cell has no known gene, or the model names none.
        """
        pathways = np.full(stop - start, "", dtype=object)
        texts = {name: column[start:stop] for name, column in self.texts.items()}
        scores = np.full((self.views, stop - start, len(self._answers)), np.nan)
        for view in range(self.views):
            cells = self._cells.rank(self.rows, start, stop, self.seed + view)
            some = np.flatnonzero(cells.lengths > 0)
            prompts = label_prompts(
                self.model, CELL_TYPE, cells, texts, some, view, self.seed, self.top_k
            )
            planned = with_pathways(
                self._engine, self.model, CELL_TYPE, prompts, Sampling(temperature=0)
            )
            if view == 0 and planned.pathways is not None:
                pathways[some] = planned.pathways
            scores[view, some] = self._engine.score(planned.prompts, self._answers, progress)
        return scores, pathways


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
        There are none, two are the same for the model, or `strict` and the model never saw one.
    InputError
        One is missing (NaN or None).
    """
    if labels is None:
        labels = model.known(condition)
        if not labels:
            raise UsageError("the model remembers no labels; give labels=[…]")
    if isinstance(labels, str):
        raise UsageError("labels=[…] must be a list of texts")
    if any(pd.isna(label) for label in labels):
        raise InputError("labels: one is missing (NaN or None); leave it out")
    if len(labels) == 0:
        raise UsageError("labels=[…] must be different texts, at least one; the list is empty")
    spelled = [model.spelling(condition, str(label)) for label in labels]
    if repeated := [label for label, n in Counter(spelled).items() if n > 1]:
        raise UsageError(
            f"labels=[…] must be different texts, at least one; listed more than once: {listing(repeated)}"
        )
    return [model.check_condition(condition, label, strict=strict) for label in spelled]


def as_candidate(
    model: Model, label: str, labels: Container[str], condition: str = CELL_TYPE.target
) -> str:
    """Return a label that a user wrote as the candidate that it is, or as the model knows it, or as it is.

    One rule for every label that is compared with candidates: case and `_`, `-` or space do not matter. A candidate
    that the model does not know is compared letter by letter.
    """
    return label if label in labels else model.spelling(condition, label)
