"""How good generated cells are: beside real cells, a baseline, the ceiling, and the training cells.

Everything is compared after the same round trip through sentences, because the round trip itself moves
cells further than a bad generator does, in the space of principal components fitted on training cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from c2s.baselines.generation import IndependentResampling
from c2s.cells.inverse import RankExpressionModel
from c2s.cells.preprocess import log10_normalized
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.common.seeds import generator
from c2s.encoders.pca import PCAEncoder
from c2s.metrics import (
    METRICS,
    SCFID_CELLS_PER_DIMENSION,
    c2st,
    energy_distance,
    exact_k_fraction,
    median_gamma,
    memorisation_summary,
    mmd2,
    nearest_distance,
    scfid,
    unique_fraction,
    valid_fraction,
    wasserstein,
)

#: Metrics of all types together. The two-sample test uses a forest: a linear one hardly sees missing correlations.
WHOLE = ("scfid", "energy_distance", "mmd2", "wasserstein", "c2st")
#: Fewer cells of a type than this are not measured on their own.
FEWEST_CELLS = 5


@dataclass(frozen=True)
class Space:
    """Where cells are compared: sentences are turned into expression and projected.

    Attributes
    ----------
    inverse
        From rank to expression.
    encoder
        Principal components, fitted on training cells after the round trip.
    """

    inverse: RankExpressionModel
    encoder: PCAEncoder

    @classmethod
    def fit(
        cls,
        training: RankedCells,
        inverse: RankExpressionModel,
        n_components: int = 20,
        seed: int = 0,
    ) -> Space:
        """Fit the components on training cells; more than about 20 overfit a thousand cells."""
        encoder = PCAEncoder(n_components=n_components, seed=seed).fit(inverse.expression(training))
        return cls(inverse, encoder)

    def embed(self, cells: RankedCells) -> np.ndarray:
        """Return the place of each cell. float64, shape (n_cells, n_components)."""
        return self.encoder.transform(self.inverse.expression(cells))


@dataclass(frozen=True)
class GenerationResult:
    """What `evaluate_generation` found.

    Attributes
    ----------
    metrics
        JSON-able: every metric for the model, the ceiling and the baseline, per type, and the memorising check.
    nearest
        Distances to the nearest training cell: "generated", "real". float64 arrays.
    real, generated : float64 arrays, shape (n_cells, n_components)
        Places of the cells.
    """

    metrics: dict[str, Any]
    nearest: dict[str, np.ndarray]
    real: np.ndarray
    generated: np.ndarray


def independent_cells(
    counts: sp.csr_matrix,
    vocabulary: GeneVocabulary,
    labels: np.ndarray,
    wanted: np.ndarray,
    top_k: int,
    seed: int,
) -> RankedCells:
    """Return cells of the wanted types whose genes were each drawn on their own, then ranked (the baseline).

    Parameters
    ----------
    counts : csr_matrix, shape (n_training, n_genes)
        Raw counts of training cells over `vocabulary`.
    labels : array of str, shape (n_training,)
    wanted : array of str, shape (n,)
        Type of each cell to make.
    top_k, seed
        Genes of a cell, and what decides the draws.
    """
    # Normalised over the genes of the vocabulary: ranks do not see the scale of a cell, margins do.
    drawn = IndependentResampling().fit(log10_normalized(counts), labels).sample(wanted, seed)
    return rank_matrix(
        drawn, vocabulary, [f"independent-{i}" for i in range(len(wanted))], top_k=top_k, seed=seed
    )


def evaluate_generation(
    *,
    space: Space,
    training: RankedCells,
    training_labels: np.ndarray,
    real: RankedCells,
    real_labels: np.ndarray,
    generated: RankedCells,
    baseline: RankedCells,
    top_k: int,
    seed: int = 0,
) -> GenerationResult:
    """Measure generated cells of the same types, in the same numbers, as held-out real cells.

    Parameters
    ----------
    space
        Where cells are compared.
    training, training_labels
        Cells that the generator saw. The ceiling is a draw of them, without replacement, with the types of
        the held-out cells: real against real at the same number of cells.
    real, real_labels
        Held-out cells.
    generated, baseline
        Cell `i` of each is of type `real_labels[i]`.
    top_k
        Genes that a generated cell was to have.
    seed
        Of the ceiling's draw and of the two-sample test.

    Returns
    -------
    GenerationResult

    Raises
    ------
    UsageError
        The numbers of cells differ.
    """
    if not len(real) == len(generated) == len(baseline) == len(real_labels):
        raise UsageError(
            "generated and baseline cells must be as many as the held-out cells, of the same types"
        )
    drawn = _same_types(training_labels, real_labels, generator(seed, "ceiling"))
    places = {
        "model": space.embed(generated),
        "independent": space.embed(baseline),
        "ceiling": space.embed(training.take(drawn)),
    }
    truth, seen = space.embed(real), space.embed(training)
    # Where a type has too few training cells for the ceiling, both sides of it leave the type out.
    ceiling_truth = truth[_with_partner(training_labels, real_labels)]
    # One kernel for all rows, that of the real cells: a generator has no say in how it is measured.
    gamma = median_gamma(truth)
    table = {
        who: whole_metrics(ceiling_truth if who == "ceiling" else truth, place, seed, gamma)
        for who, place in places.items()
    }
    nearest = {
        "generated": nearest_distance(places["model"], seen),
        "real": nearest_distance(truth, seen),
    }
    summary = memorisation_summary(nearest["generated"], nearest["real"])
    metrics = {
        "n_cells": len(generated),
        "top_k": top_k,
        "n_components": truth.shape[1],
        "valid_fraction": valid_fraction(generated.genes, generated.indptr),
        "unique_fraction": unique_fraction(generated.genes, generated.indptr),
        "exact_k_fraction": exact_k_fraction(generated.genes, generated.indptr, top_k),
        **table["model"],
        **{f"{name}_ceiling": value for name, value in table["ceiling"].items()},
        "nearest_training_distance": summary.generated_median,
        "nearest_training_distance_real": summary.real_median,
        "memorisation": {
            "median_ratio": summary.median_ratio,
            "share_below_1st": summary.share_below_1st,
            "share_below_5th": summary.share_below_5th,
        },
        "baselines": {
            "independent": {
                **table["independent"],
                "nearest_training_distance": float(np.median(nearest_distance(places["independent"], seen))),
            }
        },
        "type_recovered": type_recovered(seen, training_labels, places["model"], real_labels),
        "type_recovered_real": type_recovered(seen, training_labels, truth, real_labels),
        "per_type": per_type(places, truth, real_labels, training_labels[drawn]),
    }  # fmt: skip
    return GenerationResult(metrics, nearest, truth, places["model"])


def whole_metrics(
    real: np.ndarray, generated: np.ndarray, seed: int, gamma: float | None = None
) -> dict[str, float]:
    """Return the metrics of `WHOLE` for two sets of places, shapes (n, d) and (m, d).

    `gamma` is the width of the kernel of MMD², by default that of `real`.
    """
    return {
        "scfid": scfid(real, generated),
        "energy_distance": energy_distance(real, generated),
        "mmd2": mmd2(real, generated, gammas=None if gamma is None else [gamma]),
        "wasserstein": wasserstein(real, generated),
        "c2st": c2st(real, generated, classifier="forest", seed=seed),
    }


def type_recovered(
    seen: np.ndarray, seen_labels: np.ndarray, places: np.ndarray, labels: np.ndarray
) -> float:
    """Return the share of cells whose ten nearest training cells vote for the type that they should be.

    Parameters
    ----------
    seen : array, shape (n_training, d) ; places : array, shape (n, d)
        Training cells, and the cells in question.
    seen_labels, labels : arrays of str
        Their types.
    """
    from sklearn.neighbors import KNeighborsClassifier

    votes = KNeighborsClassifier(n_neighbors=10).fit(seen, seen_labels.astype(str))
    return float(np.mean(votes.predict(places) == labels.astype(str)))


def per_type(
    places: dict[str, np.ndarray], truth: np.ndarray, labels: np.ndarray, ceiling_labels: np.ndarray
) -> list[dict[str, Any]]:
    """Compare type by type: scFID where there are four cells a dimension, else the energy distance.

    Returns
    -------
    list of dict
        By number of cells: `cell_type`, `n_real`, `metric`, the values of `model`, `independent` and `ceiling`,
        and `winner` of the first two. Types with fewer than `FEWEST_CELLS` cells have no metric.
    """
    rows = []
    for cell_type in sorted(set(labels), key=lambda t: (-int((labels == t).sum()), t)):
        of_type = labels == cell_type
        n = int(of_type.sum())
        row: dict[str, Any] = {
            "cell_type": str(cell_type),
            "n_real": n,
            "metric": None,
            "model": None,
            "independent": None,
            "ceiling": None,
            "winner": None,
        }
        if n >= FEWEST_CELLS:
            name = "scfid" if n >= SCFID_CELLS_PER_DIMENSION * truth.shape[1] else "energy_distance"
            metric = METRICS[name]
            for who in ("model", "independent"):
                row[who] = float(metric.function(truth[of_type], places[who][of_type]))
            other = places["ceiling"][ceiling_labels == cell_type]
            row["ceiling"] = (
                float(metric.function(truth[of_type], other)) if len(other) == n else None
            )
            row["metric"] = name
            row["winner"] = (
                "model" if metric.better(row["model"], row["independent"]) else "independent"
            )
        rows.append(row)
    return rows  # fmt: skip


def _same_types(pool: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows of `pool`, none twice, with the types of `wanted` in the same order where there are enough."""
    rows = []
    for label in sorted(set(wanted)):
        need = int((wanted == label).sum())
        have = np.flatnonzero(pool == label)
        rows.append(rng.permutation(have)[: need if len(have) >= need else 0])
    return np.concatenate(rows)


def _with_partner(pool: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    enough = {
        label: int((pool == label).sum()) >= int((wanted == label).sum()) for label in set(wanted)
    }
    return np.array([enough[label] for label in wanted])
