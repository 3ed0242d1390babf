"""Annotation studies: cell types of held-out cells by a model and by baselines that learn from the same cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from c2s.baselines import (
    AnnotationBaseline,
    CellTypistBaseline,
    KNNBaseline,
    LogisticRegressionBaseline,
)
from c2s.baselines.heads import EncoderHead, FineTunedHead
from c2s.common.errors import UsageError, nearest
from c2s.common.progress import OnStage
from c2s.metrics import (
    METRICS,
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    per_class,
    reliability,
)
from c2s.studies.cells import TEST, TRAIN, StudyCells
from c2s.studies.encoders import StudyEncoders
from c2s.studies.findings import (
    MODEL,
    Findings,
    Section,
    interval_figure,
    number,
    with_interval,
)
from c2s.studies.model import StudyModel, generated_labels
from c2s.studies.recipe import AnnotationSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLAIN: dict[str, Callable[[int], AnnotationBaseline]] = {
    "logistic_regression": lambda _: LogisticRegressionBaseline(),
    "knn": lambda seed: KNNBaseline(seed=seed),
    "celltypist": lambda _: CellTypistBaseline(),
}
_ON_ENCODERS = ("head", "finetuned")
_TRAINABLE = ("scgpt", "geneformer")
#: What a cell is called that a method gives no label.
NO_LABEL = "(no label)"


def encoder_specs(settings: AnnotationSettings) -> list[str]:
    """Return the encoders that the baselines stand on, after checking the names of all baselines.

    Raises
    ------
    UsageError
        A name is unknown or given twice.
    """
    if len(set(settings.baselines)) < len(settings.baselines):
        raise UsageError(f"baselines: one is named twice: {', '.join(settings.baselines)}")
    specs = []
    for name in settings.baselines:
        kind, _, spec = name.partition(":")
        if kind == "finetuned" and spec.partition(":")[0] not in _TRAINABLE:
            raise UsageError(
                f"baselines: {name!r}: only {' and '.join(_TRAINABLE)} have a network to be trained; use head:{spec}"
            )
        if kind in _ON_ENCODERS and spec:
            specs.append(spec)
        elif name not in _PLAIN:
            close = nearest(name, _PLAIN)
            raise UsageError(
                f"baselines: found {name!r}, expected one of {', '.join(_PLAIN)}, head:ENCODER, finetuned:ENCODER"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
    return list(dict.fromkeys(specs))


@dataclass(frozen=True)
class Predicted:
    """What a method says of all cells that are measured.

    Attributes
    ----------
    labels : object array, shape (n_cells,)
    confidence : float array, shape (n_cells,)
    seconds
        Of learning and of predicting.
    """

    labels: np.ndarray
    confidence: np.ndarray
    seconds: float


def run_annotation(
    cells: StudyCells,
    settings: AnnotationSettings,
    model: StudyModel | None,
    encoders: StudyEncoders,
    *,
    resamples: int = 1000,
    seed: int = 0,
    on_stage: OnStage,
) -> Findings:
    """Let every method learn from the training cells and name the others; measure each part.

    Parameters
    ----------
    cells
        Dealt to parts.
    settings
        Which baselines.
    model
        Asked besides, or None.
    encoders
        Of the baselines that stand on one.
    resamples, seed
        Of the bootstrap; the seed also of what methods draw.
    on_stage
        See `c2s.studies.train.OnStage`.

    Returns
    -------
    Findings
        Per part and method: `accuracy`, `macro_f1`, `ece`, with intervals; `accuracy_known` where a part has types
        that no training cell has; per type `precision`, `recall`, `f1`; differences of the model from the best
        baseline (`against`). Tables: `predictions.csv`.
    """
    rows = np.concatenate([cells.rows(part) for part in cells.measured_parts])
    methods = {}
    for name in settings.baselines:
        done = on_stage(f"Annotation by {name}", 1)
        methods[name] = _by_baseline(_baseline(name, settings, cells, encoders, seed), cells, rows)
        done(1)
    if model is not None:
        done = on_stage("Annotation by the model", 1)
        methods[MODEL] = by_model(model, cells, rows, seed)
        done(1)
    findings = Findings(
        facts={"seconds": {f"annotation by {k}": round(v.seconds, 1) for k, v in methods.items()}}
    )
    findings.tables["predictions.csv"] = _predictions(cells, rows, methods)
    start = 0
    for part in cells.measured_parts:
        size = len(cells.rows(part))
        own = {
            name: Predicted(p.labels[start : start + size], p.confidence[start : start + size], 0)
            for name, p in methods.items()
        }
        _measure_part(findings, cells, part, own, resamples, seed)
        start += size
    return findings


def _baseline(
    name: str,
    settings: AnnotationSettings,
    cells: StudyCells,
    encoders: StudyEncoders,
    seed: int,
) -> AnnotationBaseline:
    if name in _PLAIN:
        return _PLAIN[name](seed)
    kind, _, spec = name.partition(":")
    encoder = encoders.open(spec)
    if kind == "head":
        return EncoderHead(encoder, cells.vocabulary)
    tuning = settings.fine_tuning
    return FineTunedHead(
        encoder,  # type: ignore[arg-type]  # refused there, in one line, if it cannot be trained
        cells.vocabulary,
        epochs=tuning.epochs,
        learning_rate=tuning.learning_rate,
        batch_size=tuning.batch_size,
        hidden_layers=tuning.hidden_layers,
        seed=seed,
        device=encoders.device,
    )


def _by_baseline(baseline: AnnotationBaseline, cells: StudyCells, rows: np.ndarray) -> Predicted:
    started = time.perf_counter()
    train = cells.rows(TRAIN)
    baseline.fit(cells.values[train], cells.labels[train])
    probability = baseline.predict_proba(cells.values[rows])
    labels = baseline.classes_[probability.argmax(axis=1)].astype(object)
    return Predicted(labels, probability.max(axis=1), time.perf_counter() - started)


def by_model(model: StudyModel, cells: StudyCells, rows: np.ndarray, seed: int) -> Predicted:
    """Ask a model for one of the labels of the training cells, the same that the baselines choose from."""
    from c2s.analysis.annotate import label_probabilities

    started = time.perf_counter()
    candidates = np.array(sorted(set(cells.labels[cells.rows(TRAIN)])), dtype=object)
    asked = generated_labels(model, candidates)
    if len(set(asked)) < len(asked):
        raise UsageError(
            f"the model takes two labels of the data for one: {', '.join(candidates)}; rename them in the data"
        )
    probability = label_probabilities(
        cells.adata(rows), model.model, asked.tolist(), views=model.views, seed=seed
    )
    known = ~np.isnan(probability[:, 0])
    filled = np.nan_to_num(probability)
    labels = np.where(known, candidates[filled.argmax(axis=1)], NO_LABEL)
    return Predicted(labels, filled.max(axis=1), time.perf_counter() - started)


def _predictions(
    cells: StudyCells, rows: np.ndarray, methods: Mapping[str, Predicted]
) -> pd.DataFrame:
    table = pd.DataFrame(
        {"cell_id": cells.obs.index[rows], "part": cells.part[rows], "truth": cells.labels[rows]}
    )
    for name, predicted in methods.items():
        table[name] = predicted.labels
        table[f"{name} confidence"] = predicted.confidence
    return table


def _measure_part(
    findings: Findings,
    cells: StudyCells,
    part: str,
    methods: Mapping[str, Predicted],
    resamples: int,
    seed: int,
) -> None:
    """Add the figures, sentences and pictures of one part."""
    rows = cells.rows(part)
    truth, clusters = cells.labels[rows], cells.clusters(rows)
    common = {"part": part, "task": "annotation"}
    seen = np.isin(truth.astype(str), cells.labels[cells.rows(TRAIN)].astype(str))

    def interval(function: Callable[..., float], *arrays: np.ndarray) -> tuple[float, float]:
        return bootstrap_interval(
            function, *arrays, clusters=clusters, seed=seed, n_resamples=resamples
        )

    def add(name: str, metric: str, function: Callable[..., float], *arrays: np.ndarray) -> None:
        low, high = interval(function, *arrays)
        row = {"method": name, "scope": "together", "metric": metric, "value": function(*arrays)}
        findings.rows.append(common | row | {"low": low, "high": high, "n_cells": len(rows)})

    codes = _codes(truth, {name: p.labels for name, p in methods.items()})
    for name, predicted in methods.items():
        add(name, "accuracy", accuracy, codes[""], codes[name])
        add(name, "macro_f1", macro_f1, codes[""], codes[name])
        add(name, "ece", expected_calibration_error, codes[""], codes[name], predicted.confidence)
        if not seen.all() and seen.any():
            value = accuracy(codes[""][seen], codes[name][seen])
            row = {"method": name, "scope": "together", "metric": "accuracy_known", "value": value}
            findings.rows.append(common | row | {"n_cells": int(seen.sum())})
        findings.rows.extend(common | row for row in _by_type(name, truth, predicted.labels))
    sentences = [cells.intervals(rows)]
    first, second = _contest(findings, part, list(methods))
    if first and second:
        for metric, function in (("accuracy", accuracy), ("macro_f1", macro_f1)):
            between = _difference(function)
            arrays = (codes[""], codes[first], codes[second])
            low, high = interval(between, *arrays)
            row = {"method": first, "against": second, "scope": "together", "metric": metric}
            row |= {"value": between(*arrays), "low": low, "high": high, "n_cells": len(rows)}
            findings.rows.append(common | row)
            sentences.append(_who_wins(findings, part, row))
    if not seen.all():
        unseen = sorted(set(truth[~seen]))
        sentences.append(
            f"{int((~seen).sum()):,} cells are of types that no training cell has ({', '.join(unseen)}): every method "
            "is wrong about them; accuracy_known leaves them out."
        )
    findings.sections.append(_section(findings, part, methods, sentences))
    _pictures(findings, part, truth, methods)


def _codes(truth: np.ndarray, predicted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return labels as numbers, truth under the empty name: resampling sorts them a thousand times."""
    every = {"": truth.astype(str), **{k: v.astype(str) for k, v in predicted.items()}}
    _, codes = np.unique(np.concatenate(list(every.values())), return_inverse=True)
    return dict(zip(every, np.split(codes.astype(np.int64), len(every)), strict=True))


def _by_type(name: str, truth: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    table = per_class(truth.astype(str), predicted.astype(str))
    return [
        {"method": name, "scope": "label", "label": str(label), "metric": metric}
        | {"value": float(row[metric]), "n_cells": int(row["support"])}
        for label, row in table[table["support"] > 0].iterrows()
        for metric in ("precision", "recall", "f1")
    ]


def _contest(findings: Findings, part: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return the model and the best baseline by accuracy; the two best baselines where there is no model."""
    others = [name for name in methods if name != MODEL]
    others.sort(key=lambda name: -findings.value("accuracy", name, part))
    ranked = [MODEL, *others] if MODEL in methods else others
    return (ranked[0], ranked[1]) if len(ranked) > 1 else ("", "")


def _difference(function: Callable[..., float]) -> Callable[..., float]:
    def between(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
        return function(truth, first) - function(truth, second)

    return between


def _who_wins(findings: Findings, part: str, row: Mapping[str, Any]) -> str:
    first, second, metric = row["method"], row["against"], row["metric"]
    title = METRICS[metric].title
    a, b = (findings.value(metric, name, part) for name in (first, second))
    best = "the baseline with the best accuracy" if first == MODEL else "second in accuracy"
    verdict = "cannot be told apart from"
    if row["low"] > 0:
        verdict = "is better than"
    elif row["high"] < 0:
        verdict = "is worse than"
    return (
        f"{title}: **{first}** ({number(a)}) {verdict} **{second}** ({number(b)}), {best}; difference "
        f"{with_interval(row)}."
    )


def _section(
    findings: Findings, part: str, methods: Mapping[str, Predicted], sentences: Sequence[str]
) -> Section:
    names = ["accuracy", "macro_f1", "ece"]
    titles = [f"{METRICS[m].title} {'↓' if METRICS[m].best == 'lower' else '↑'}" for m in names]
    rows = {
        (r["method"], r["metric"]): r
        for r in findings.rows
        if r["part"] == part and r["scope"] == "together" and not r.get("against")
    }
    if any(metric == "accuracy_known" for _, metric in rows):
        names.append("accuracy_known")
        titles.append("Accuracy, known types ↑")
    order = sorted(methods, key=lambda name: -rows[name, "accuracy"]["value"])
    table = [["method", *titles]]
    table += [[name, *(with_interval(rows[name, m]) for m in names)] for name in order]
    n = rows[order[0], "accuracy"]["n_cells"]
    return Section(f"Annotation of {n:,} cells: {part}", sentences, table)


def _pictures(
    findings: Findings, part: str, truth: np.ndarray, methods: Mapping[str, Predicted]
) -> None:
    from c2s.plots import confusion_matrix as draw_confusion
    from c2s.plots import reliability as draw_reliability

    shown = [
        r
        for r in findings.rows
        if r["part"] == part and r["metric"] == "accuracy" and r["scope"] == "together"
        if not r.get("against")
    ]
    shown.sort(key=lambda r: -r["value"])
    tail = "" if part == TEST else f"-{part}".replace(" ", "-").replace("/", "-")
    findings.figures[f"annotation-accuracy{tail}"] = interval_figure(shown, "Accuracy ↑", None)
    name = MODEL if MODEL in methods else shown[0]["method"]
    predicted = methods[name]
    labels, matrix = confusion_matrix(truth.astype(str), predicted.labels.astype(str))
    findings.figures[f"annotation-confusion{tail}"] = _figure(
        draw_confusion([str(label) for label in labels], matrix)
    )
    bins = reliability(truth.astype(str), predicted.labels.astype(str), predicted.confidence)
    findings.figures[f"annotation-reliability{tail}"] = _figure(
        draw_reliability([(float(c), float(a), int(n)) for c, a, n in bins.to_numpy()])
    )


def _figure(ax: Axes) -> Figure:
    return cast("Figure", ax.get_figure(root=True))
