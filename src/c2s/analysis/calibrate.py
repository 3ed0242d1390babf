"""Calibration: a temperature that makes annotation as sure as it is right (Guo et al. 2017, ICML)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.analysis.annotate import (
    as_candidate,
    candidates,
    check_model,
    label_scores,
    probabilities_of,
)
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.metrics import expected_calibration_error
from c2s.models.directory import Model

if TYPE_CHECKING:
    from anndata import AnnData

#: Between these the temperature is sought.
_LOWEST, _HIGHEST = 0.1, 10.0


def calibrate(
    adata: AnnData,
    model: Model,
    truth: str = "cell_type",
    labels: Sequence[str] | None = None,
    *,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Fit the temperature of annotation on cells whose labels are known, and keep it in the model's card.

    The temperature is the one with the smallest mean −log p of the true labels. It changes no label (with one
    view), only how sure the model is. `annotate` uses it from then on; `Model.save` writes it to `c2s.json`.

    Parameters
    ----------
    adata
        Cells that the model was **not** trained on, such as validation cells. Nothing is written to it.
    model
        Trained on annotation. Its card gets `calibration`; an earlier one is replaced.
    truth
        Column of `obs` with the labels. Cells without one, or with one that is not a candidate, are left out.
    labels, organism, views, top_k, genes, layer, batch_size, seed
        As in `annotate`; give both the same.

    Returns
    -------
    dict
        `temperature`; `ece_before`, `ece_after`, the expected calibration error in ten bins;
        `nll_before`, `nll_after`, the mean −log p of the true label in nats; `n_cells`.

    Raises
    ------
    UsageError
        `obs` has no such column, or the model was not trained on annotation.
    InputError
        No cell has both a known gene and a label that is a candidate.

    References
    ----------
    Guo et al. 2017, "On calibration of modern neural networks", ICML.

    Examples
    --------
    >>> found = c2s.tl.calibrate(validation, model)  # doctest: +SKIP
    >>> found["ece_before"], found["ece_after"]  # doctest: +SKIP
    >>> model.save("model-calibrated")  # doctest: +SKIP
    """
    check_model(model, views)
    if truth not in adata.obs:
        raise UsageError(
            f"obs has no column {truth!r}; it has: {listing(list(map(str, adata.obs.columns))) or 'none'}"
        )
    labels = candidates(model, labels)
    part, codes = _labelled(adata, model, truth, labels)
    scores = label_scores(
        part, model, labels, organism=organism, views=views, top_k=top_k, genes=genes, layer=layer,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    seen = ~np.isnan(scores[0, :, 0])
    if not seen.any():
        raise InputError("no cell with a label has a gene that the model knows")
    found = fit_temperature(scores[:, seen], codes[seen])
    model.card = model.card.model_copy(update={"calibration": found})
    return found


def _labelled(
    adata: AnnData, model: Model, truth: str, labels: list[str]
) -> tuple[AnnData, np.ndarray]:
    """Return the cells whose label is a candidate, and which one it is."""
    number = {label: i for i, label in enumerate(labels)}
    column = adata.obs[truth]
    spelled = {}
    for value in column.dropna().unique():
        spelled[value] = as_candidate(model, str(value), number)
    codes = np.array([number.get(spelled.get(v, ""), -1) for v in column])
    if not (codes >= 0).any():
        raise InputError(
            f"no label of obs[{truth!r}] ({listing(list(map(str, spelled)), 5) or 'none'}) is one of the candidates:"
            f" {listing(labels, 5)}"
        )
    if left := int((codes < 0).sum()):
        warn(
            f"{left:,} of {len(codes):,} cells have no label that is a candidate, and are left out"
        )
    return adata[codes >= 0].to_memory(), codes[codes >= 0]


def fit_temperature(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the temperature with the smallest mean −log p of the true labels, and errors before and after.

    Parameters
    ----------
    scores : float64 array, shape (n_views, n_cells, n_labels)
        log p of each label.
    truth : int array, shape (n_cells,)
        Which label is the true one.

    Returns
    -------
    dict
        As `calibrate`.
    """
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        p = probabilities_of(scores, float(np.exp(log_temperature)))[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(p, np.finfo(float).tiny)).mean())

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    fitted = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    temperature = float(np.exp(fitted.x))
    if not 1.01 * _LOWEST < temperature < 0.99 * _HIGHEST:
        warn(
            f"the temperature {temperature:.2g} is at the end of what is tried ({_LOWEST:g} to {_HIGHEST:g}); the "
            "cells hold too few right or too few wrong answers to calibrate with"
        )
    found = {"temperature": temperature}
    for name, t in (("before", 1.0), ("after", temperature)):
        p = probabilities_of(scores, t)
        ece = expected_calibration_error(truth, p.argmax(1), np.minimum(p.max(1), 1.0))
        found |= {f"ece_{name}": ece, f"nll_{name}": nll(np.log(t))}
    return {**found, "n_cells": len(truth)}
