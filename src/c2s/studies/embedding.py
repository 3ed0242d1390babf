"""Embedding studies: how well cells of a type lie together, and donors apart or not, by encoder (SPEC §8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from c2s.common.progress import OnStage
from c2s.encoders.base import CellEncoder, encode_cells
from c2s.metrics import (
    accuracy,
    adjusted_rand_index,
    bootstrap_interval,
    cluster_agreement,
    label_transfer,
    macro_f1,
    normalized_mutual_information,
)
from c2s.studies.cells import TEST, TRAIN, StudyCells
from c2s.studies.encoders import StudyEncoders, model_encoder
from c2s.studies.findings import MODEL, Findings, Section, interval_figure, with_interval
from c2s.studies.model import StudyModel
from c2s.studies.recipe import EmbeddingStudy

#: What is measured of an embedding, with its heading.
TITLES = {
    "label_transfer": "label transfer, accuracy ↑",
    "label_transfer_macro_f1": "label transfer, macro F1 ↑",
    "knn_accuracy": "kNN accuracy ↑",
    "ari": "ARI ↑",
    "nmi": "NMI ↑",
    "donor_recovered": "donor recovered within types ↓",
}


def run_embedding(
    cells: StudyCells,
    recipe: EmbeddingStudy,
    model: StudyModel | None,
    encoders: StudyEncoders,
    *,
    on_stage: OnStage,
) -> Findings:
    """Encode training and test cells by every encoder, and measure where the test cells lie.

    Parameters
    ----------
    cells
        Dealt to training and test.
    recipe
        Which encoders, and how many neighbours vote.
    model
        Looked at besides, or None.
    encoders
        Opens them; those that are fitted learn from the training cells.
    on_stage
        See `c2s.studies.train.OnStage`.

    Returns
    -------
    Findings
        By encoder: `label_transfer` (accuracy, and `label_transfer_macro_f1`) from training to test cells;
        `knn_accuracy`, `ari` and `nmi` among test cells; with several real donors `donor_recovered`: the share of test
        cells whose nearest cells of the same type vote for their own donor, beside the method "commonest donor", which
        is the share that the commonest donor of each type has.
    """
    findings = Findings(facts={"encoders": {}, "seconds": {}})
    for name in [*recipe.encoders, *([MODEL] if model is not None else [])]:
        done, started = on_stage(f"Embedding by {name}", 1), time.perf_counter()
        if name == MODEL and model is not None:
            encoder = model_encoder(model.model, cells, recipe.seed)
        else:
            encoder = encoders.open(name)
        _measure(findings, cells, recipe, name, encoder)
        findings.facts["seconds"][f"embedding by {name}"] = round(time.perf_counter() - started, 1)
        done(1)
    test = cells.rows(TEST)
    if _has_donors(cells):
        findings.rows.append(_commonest_donor(cells, recipe.neighbors))
    sentences = [
        cells.intervals(test),
        f"Label transfer: each test cell gets the label that most of its {recipe.neighbors} nearest training cells "
        f"have. kNN accuracy, and k-means clusters (as many as types) against types: among the test cells. "
        "Intervals of ARI and NMI keep the clusters as they are.",
    ]
    if model is not None and model.trained:
        sentences.append(
            "The model was trained on the labels of the training cells, by which embeddings are judged here; encoders "
            "that saw no label are at a disadvantage."
        )
    if not _has_donors(cells):
        sentences.append(
            "Whether donors mix cannot be said: the data have no two real donors among the test cells."
        )
    findings.sections.append(
        Section(f"Embedding of {len(test):,} cells", sentences, _table(findings))
    )
    shown = [r for r in findings.rows if r["metric"] == "label_transfer"]
    findings.figures["embedding-label-transfer"] = interval_figure(
        sorted(shown, key=lambda r: -r["value"]), "Label transfer, accuracy ↑", None
    )
    return findings


def _has_donors(cells: StudyCells) -> bool:
    return (
        cells.donors is not None
        and not cells.donors.pseudo
        and cells.clusters(cells.rows(TEST)) is not None
    )


def _measure(
    findings: Findings, cells: StudyCells, recipe: EmbeddingStudy, name: str, encoder: CellEncoder
) -> None:
    train, test = cells.rows(TRAIN), cells.rows(TEST)
    both = encode_cells(encoder, cells.values[np.concatenate([train, test])], cells.vocabulary)
    seen, places = both.points[: len(train)], both.points[len(train) :]
    findings.facts["encoders"][name] = both.encoder
    known = cells.labels[train].astype(str)
    truth = cells.labels[test].astype(str)
    kinds, codes = np.unique(truth, return_inverse=True)
    k = min(recipe.neighbors, len(train), len(test) - 1)

    def add(metric: str, function: Callable[..., float], *arrays: np.ndarray) -> None:
        low, high = bootstrap_interval(
            function,
            *arrays,
            clusters=cells.clusters(test),
            seed=recipe.seed,
            n_resamples=recipe.resamples,
        )
        findings.rows.append(
            _row(name, metric, function(*arrays), len(test), both.encoder)
            | {"low": low, "high": high}
        )

    given = label_transfer(seen, known, places, n_neighbors=k)
    _, pair = np.unique(np.concatenate([truth, given]), return_inverse=True)
    add("label_transfer", accuracy, pair[: len(test)], pair[len(test) :])
    add("label_transfer_macro_f1", macro_f1, pair[: len(test)], pair[len(test) :])
    add("knn_accuracy", accuracy, codes, votes(places, codes, len(kinds), k))
    clusters = cluster_agreement(places, truth, seed=recipe.seed).clusters
    add("ari", adjusted_rand_index, codes, clusters)
    add("nmi", normalized_mutual_information, codes, clusters)
    if _has_donors(cells):
        right, value = _donor_recovered(cells, test, places, k)
        row = _row(name, "donor_recovered", value, right, both.encoder)
        findings.rows.append(row)


def _row(method: str, metric: str, value: float, n: int, encoder: str = "") -> dict[str, Any]:
    return {
        "part": TEST, "task": "embedding", "encoder": encoder, "method": method, "scope": "together",
        "metric": metric, "value": value, "n_cells": n,
    }  # fmt: skip


def votes(points: np.ndarray, codes: np.ndarray, n_codes: int, n_neighbors: int) -> np.ndarray:
    """Return the code that most of each cell's nearest other cells have; shape (n_cells,), int64.

    The share of cells for which it is their own is `c2s.metrics.knn_accuracy`; here single cells are needed, for
    intervals.
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
    counts = np.zeros((len(points), n_codes), dtype=np.int64)
    np.add.at(counts, (np.arange(len(points))[:, None], codes[near]), 1)
    return counts.argmax(axis=1)


def _types_with_donors(cells: StudyCells, test: np.ndarray, k: int) -> list[np.ndarray]:
    """Return the positions among the test cells of each type that has more than `k` cells, of two or more donors."""
    if cells.donors is None:
        return []
    found = []
    for kind in sorted(set(cells.labels[test])):
        own = np.flatnonzero(cells.labels[test] == kind)
        if len(own) > k and len(set(cells.donors.names[test[own]])) > 1:
            found.append(own)
    return found


def _donor_recovered(
    cells: StudyCells, test: np.ndarray, places: np.ndarray, k: int
) -> tuple[int, float]:
    """Return how many cells were looked at, and the share whose neighbours of their type vote for their donor."""
    right, n = 0, 0
    for own in _types_with_donors(cells, test, k):
        assert cells.donors is not None
        names, codes = np.unique(cells.donors.names[test[own]].astype(str), return_inverse=True)
        right += int((votes(places[own], codes, len(names), k) == codes).sum())
        n += len(own)
    return n, right / n if n else float("nan")


def _commonest_donor(cells: StudyCells, neighbors: int) -> dict[str, Any]:
    """Return what is recovered if always the commonest donor of the type is said."""
    test = cells.rows(TEST)
    k = min(neighbors, len(test) - 1)
    groups = _types_with_donors(cells, test, k)
    assert cells.donors is not None
    n = sum(len(own) for own in groups)
    right = sum(
        int(np.unique(cells.donors.names[test[own]].astype(str), return_counts=True)[1].max())
        for own in groups
    )
    value = right / n if n else float("nan")
    return _row("commonest donor", "donor_recovered", value, n)


def _table(findings: Findings) -> list[list[str]]:
    there = [m for m in TITLES if any(r["metric"] == m for r in findings.rows)]
    methods: Sequence[str] = list(dict.fromkeys(str(r["method"]) for r in findings.rows))
    found = {(r["method"], r["metric"]): r for r in findings.rows}
    rows = [["encoder", "content", *(TITLES[m] for m in there)]]
    for name in methods:
        figures = [with_interval(found[name, m]) if (name, m) in found else "–" for m in there]
        rows.append([name, findings.facts["encoders"].get(name, "–"), *figures])
    return rows
