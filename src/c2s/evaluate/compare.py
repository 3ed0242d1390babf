"""Generated cells beside held-out real ones, condition by condition: with floors, ceilings and intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from c2s.cells.inverse import RankExpressionModel
from c2s.common.errors import InputError, UsageError, listing
from c2s.encoders.base import CellEncoder, encoder_id
from c2s.evaluate.conditions import Control, column_text
from c2s.evaluate.measures import (
    Measure,
    chosen_measures,
)
from c2s.evaluate.measuring import Measurement
from c2s.evaluate.prepare import Prepared, Settings, left_out, prepare
from c2s.evaluate.result import Evaluation
from c2s.evaluate.splits import draw, find_resampling
from c2s.metrics import (
    Memorisation,
    knn_accuracy,
    label_transfer,
    memorisation_summary,
    nearest_distance,
)

if TYPE_CHECKING:
    from anndata import AnnData

#: A larger share of generated cells below the 5th percentile of real cells' distances is told; 0.05 is right.
COPIED = 0.25
#: Fewer halves than this are told.
FEW_SPLITS = 10
#: Columns that are taken for the donor where none is named.
DONOR_COLUMNS = ("donor", "donor_id")


def evaluate(
    real: AnnData,
    generated: AnnData,
    by: Sequence[str],
    *,
    train: AnnData | None = None,
    control: str | None = None,
    cluster: str | None = None,
    genes: Sequence[str] | None = None,
    encoder: CellEncoder | str = "pca",
    inverse: RankExpressionModel | None = None,
    top_k: int | None = None,
    layer: str | None = None,
    metrics: Sequence[str] | None = None,
    min_cells: Mapping[str, int] | None = None,
    paired: bool = False,
    n_splits: int = 30,
    device: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare generated cells with held-out real cells, within every combination of labels and averaged.

    All cells take the same way: written as sentences of the same number of genes, turned back into expression, placed
    by one encoder. How a figure and its interval come about is told in `c2s.evaluate.splits`; means over conditions
    are unweighted, as in the paper (SPEC §14.3).

    Parameters
    ----------
    real
        Held-out cells: counts, or log10-normalised values, with the columns of `by` in `obs`.
    generated
        As `c2s generate` writes (sentences in ``obs["cell_sentence"]``), or expression from any generator.
    by
        Columns of `obs` of both whose combinations are the conditions.
    train
        Cells that the generator was trained on, with the same columns. The space is fitted on them, floors are taken
        from them, and they are what the check for memorising needs. Without them the space and the floor of
        independent genes come from the real cells themselves, which makes that floor harder to beat.
    control
        "COLUMN=VALUE", as "perturbation=control": which cells are untreated. Adds the floors `control` and
        `mean_shift` and the correlation of responses; means are over treated conditions.
    cluster
        Column of `obs` of the real cells whose values are drawn as wholes for intervals: donor, drug. By default
        "donor" or "donor_id", where there is one.
    genes
        Look only at these genes after the round trip (a programme, SPEC §7.2).
    encoder
        Makes the space: an encoder, or its name as `c2s.encoders.opening.open_encoder` takes it, where "pca" and
        "scvi" are fitted on `train`. By default 20 principal components.
    inverse
        From rank to expression; by default fitted on `train`.
    top_k
        Genes of a sentence; by default as the generated sentences have.
    layer
        Of `real` and `train`; as in `c2s.pp.normalize`.
    metrics
        Names in `c2s.evaluate.measures.MEASURES`; by default a choice of them.
    min_cells
        Fewest cells on each side of a comparison by metric, where the usual number is not wanted, as
        ``{"scfid": 30}``.
    paired
        Generated and real cells of one name are a pair; overlap then compares pairs. Otherwise it compares each
        generated cell with a random real cell of the condition.
    n_splits
        Random halves that each figure is the mean of.
    device
        Where an encoder that is a network runs.
    seed
        Of ties, splits and floors.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        A column, metric or setting is unknown.
    InputError
        A file of cells cannot be used, or no condition has both real and generated cells.
    """
    if n_splits < 2:
        raise UsageError(f"n_splits: found {n_splits}, expected at least 2")
    by = [by] if isinstance(by, str) else list(by)
    metrics = [metrics] if isinstance(metrics, str) else metrics
    untreated = None if control is None else Control.parse(control, by)
    single, together = chosen_measures(
        None if metrics is None else list(metrics), untreated is not None
    )
    wanted = _wanted_cells(min_cells or {}, [*single, *together])
    groups, column = _groups(real, cluster)
    settings = Settings(tuple(by), untreated, genes, encoder, inverse, top_k, layer, device, seed)
    data = prepare(real, generated, train, settings)
    resampling = find_resampling(groups, column, data.real.condition)
    run = Measurement(
        treated=data.conditions.treated(untreated),
        data=data,
        single=single,
        together=together,
        wanted=wanted,
        resampling=resampling,
        pairs=_pairs(real, generated, data) if paired else None,
        n_splits=n_splits,
        seed=seed,
    )
    table = run.table()
    if table.empty:
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in run.left_out))
        raise InputError(f"nothing could be measured: {reasons}")
    matched = _matched(data, run.compared, seed)
    nearest = _nearest_training(data, *matched)
    memorisation = None
    if nearest:
        memorisation = memorisation_summary(nearest["generated"], nearest["real"])
    if not nearest:
        reason = "needs the training cells, and none were given"
        run.left_out.append(left_out("", "generated", "memorisation", reason))
    facts = {
        "by": list(by),
        "control": control,
        "n_conditions": int(run.treated.sum()),
        "n_compared": len(run.compared),
        "n_train": None if train is None else train.n_obs,
        **_cell_facts(data),
        "paired": paired,
        "n_splits": n_splits,
        "seed": seed,
        "intervals": resampling.sentence(),
        "resampled": {"of": resampling.of, "column": resampling.column, "n": len(resampling.names)},
        "labels_recovered": _labels_recovered(data, matched[1]),
        "memorisation": None if memorisation is None else asdict(memorisation),
        "notes": [
            *_copied(memorisation),
            *data.notes,
            *_seen_already(nearest),
            *_few_splits(n_splits),
        ],
    }
    return Evaluation(
        table=table,
        left_out=pd.DataFrame(run.left_out, columns=["condition", "candidate", "metric", "reason"]),
        facts=facts,
        nearest=nearest,
        places=_places(data),
        encoder=data.trip.space,
    )


def _cell_facts(data: Prepared) -> dict[str, Any]:
    """Return what the cells are and which way they took."""
    trip = data.trip
    return {
        "n_real": len(data.real.condition),
        "n_generated": len(data.generated.condition),
        "real_cells": _digest(data),
        "top_k": trip.top_k,
        "n_genes": len(trip.genes),
        "n_genes_measured": len(trip.measured),
        "genes_measured": hashlib.sha256("\n".join(trip.measured.words).encode()).hexdigest()[:16],
        "encoder": encoder_id(trip.space),
        "n_dimensions": trip.space.n_dimensions,
        "encoder_fitted_on": data.fitted_on,
        "inverse": trip.inverse.to_dict(),
        "form": data.form,
    }


def _digest(data: Prepared) -> str:
    """Return 16 digits of a hash of the real cells as they are compared: their sentences and conditions."""
    content = hashlib.sha256()
    cells = data.real.sentences
    if cells is not None:
        for array in (cells.indptr, cells.genes, data.real.condition):
            content.update(np.ascontiguousarray(array).astype("<i8").tobytes())
        content.update("\n".join(cells.vocabulary.words).encode())
    content.update(repr(data.conditions.values).encode())
    return content.hexdigest()[:16]


def _matched(data: Prepared, compared: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of real and of generated cells with as many of each compared condition."""
    real, made = [], []
    for c in compared:
        rows, others = data.real.rows(c), data.generated.rows(c)
        n = min(len(rows), len(others))
        real.append(draw(rows, n, seed, 0, c, "matched real"))
        made.append(draw(others, n, seed, 0, c, "matched generated"))
    return np.concatenate(real), np.concatenate(made)


def _nearest_training(
    data: Prepared, real: np.ndarray, generated: np.ndarray
) -> dict[str, np.ndarray]:
    """Return distances of some cells to their nearest training cell; nothing without training cells."""
    if data.seen is None:
        return {}
    return {
        "generated": nearest_distance(data.generated.points[generated], data.seen),
        "real": nearest_distance(data.real.points[real], data.seen),
    }


def _copied(found: Memorisation | None) -> list[str]:
    """Say so where generated cells lie as near to training cells as only copies do."""
    if found is None or found.share_below_5th < COPIED:
        return []
    return [
        f"Probably copies: {found.share_below_5th:.0%} of the generated cells are as near to a training cell as the "
        "nearest 5 % of the real cells. The distances then say nothing for them."
    ]


def _few_splits(n_splits: int) -> list[str]:
    if n_splits >= FEW_SPLITS:
        return []
    return [f"{n_splits} random halves are few: figures and intervals are rough, 30 are usual."]


def _seen_already(nearest: dict[str, np.ndarray]) -> list[str]:
    """Say how many of the real cells are training cells."""
    real = nearest.get("real", np.ones(1))
    n = int((real == 0).sum())
    if n == 0:
        return []
    return [
        f"{n:,} of {len(real):,} real cells lie exactly where a training cell does: they were probably trained on, and "
        "then neither the distances nor the check for memorising are honest."
    ]


def _wanted_cells(wanted: Mapping[str, int], measures: list[Measure]) -> Mapping[str, int]:
    known = {measure.name for measure in measures}
    for name, n in wanted.items():
        if name not in known:
            raise UsageError(
                f"min_cells: {name!r} is not measured here; measured are {listing(sorted(known), 20)}"
            )
        if n < 2:
            raise UsageError(f"min_cells: {name} = {n}, expected at least 2")
    return wanted


def _groups(real: AnnData, cluster: str | None) -> tuple[list[str] | None, str | None]:
    if cluster is not None:
        return column_text(real.obs, cluster, "the real cells"), cluster
    for name in DONOR_COLUMNS:
        if name in real.obs and not real.obs[name].isna().any():
            return column_text(real.obs, name, "the real cells"), name
    return None, None


def _pairs(real: AnnData, generated: AnnData, data: Prepared) -> np.ndarray:
    """Return for each real cell the generated cell of the same name and condition, −1 where there is none."""
    if not generated.obs_names.is_unique:
        raise InputError("paired: names of generated cells occur more than once")
    rows = np.asarray(generated.obs_names.get_indexer(real.obs_names), dtype=np.int64)
    rows[data.generated.condition[rows] != data.real.condition] = -1
    if (rows < 0).all():
        raise InputError(
            "paired: no generated cell has the name of a real one of its condition; expected obs_names that say which "
            f"cells belong together (real: {real.obs_names[0]!r}, generated: {generated.obs_names[0]!r})"
        )
    return rows


def _labels_recovered(data: Prepared, generated: np.ndarray) -> dict[str, float] | None:
    """Return the share of cells whose nearest real cells vote for their own condition, generated and real."""
    neighbors = 15
    if len(data.real.condition) <= neighbors or len(np.unique(data.real.condition)) < 2:
        return None
    votes = label_transfer(
        data.real.points,
        data.real.condition,
        data.generated.points[generated],
        n_neighbors=neighbors,
    )
    return {
        "generated": float(np.mean(votes == data.generated.condition[generated])),
        "real": knn_accuracy(data.real.points, data.real.condition, n_neighbors=neighbors),
    }


def _places(data: Prepared) -> pd.DataFrame:
    """Return the first two dimensions of all cells, for a picture."""
    parts = []
    for name, cells in (("real", data.real), ("generated", data.generated)):
        known = np.flatnonzero(cells.condition >= 0)
        frame = pd.DataFrame(
            cells.points[known][:, :2], columns=["x", "y"][: cells.points.shape[1]]
        )
        frame["cells"] = name
        frame["condition"] = [data.conditions.name(int(c)) for c in cells.condition[known]]
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)
