"""Everything that an evaluation needs, taken through the same round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from c2s.cells.checks import matrix_kind
from c2s.cells.inverse import RankExpressionModel
from c2s.cells.profiles import align_columns
from c2s.cells.readers import csr_blocks, expression
from c2s.cells.sentences import fit_inverse
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError, listing
from c2s.encoders.base import CellEncoder
from c2s.encoders.opening import is_fitted, open_encoder
from c2s.evaluate.cells import (
    Profiles,
    RoundTrip,
    generated_cells,
    profiles,
    programme,
    rename,
    shared_genes,
)
from c2s.evaluate.conditions import Conditions, Control, condition_labels
from c2s.evaluate.floors import candidate, control_rows, mean_shift, resampled
from c2s.evaluate.measures import Candidate

if TYPE_CHECKING:
    from anndata import AnnData

#: Added to the seed for the ties of generated expression.
GENERATED_TIES = 2
#: A larger share of words that real cells do not know is told.
MOST_DROPPED = 0.01
REAL, GENERATED, TRAIN = "the real cells", "the generated cells", "the training cells"


@dataclass(frozen=True)
class Settings:
    """How cells are made ready; see `evaluate` for the meaning of each."""

    by: tuple[str, ...]
    control: Control | None
    genes: Sequence[str] | None
    encoder: CellEncoder | str
    inverse: RankExpressionModel | None
    top_k: int | None
    layer: str | None
    device: str | None
    seed: int


@dataclass(frozen=True)
class Prepared:
    """All cells, through the round trip.

    Attributes
    ----------
    conditions
        Combinations of labels of the real cells.
    trip
        The way that all cells took.
    real, generated
        The two that are compared.
    floors
        What needs no model.
    other_ties
        The real cells with their ties drawn anew.
    plain
        The real cells in measured expression, without the round trip.
    control
        Rows of `real` with the control cells of each treated condition.
    seen : float64 array, shape (n_training, d), or None
        Places of the training cells.
    fitted_on
        What the space was fitted on: "train", "real", or "given".
    form
        Of the generated sentences; see `Generated`.
    notes
        What a reader has to know about the data.
    missing
        What could not be made, as rows of `Evaluation.left_out`.
    """

    conditions: Conditions
    trip: RoundTrip
    real: Candidate
    generated: Candidate
    floors: list[Candidate]
    other_ties: Candidate
    plain: Candidate
    control: dict[int, np.ndarray]
    seen: np.ndarray | None
    fitted_on: str
    form: dict[str, float]
    notes: list[str]
    missing: list[dict[str, str]]


@dataclass(frozen=True)
class _Labelled:
    """Cells over the genes that all have in common, with their labels."""

    cells: Profiles
    labels: list[tuple[str, ...]]


def prepare(
    real: AnnData, generated: AnnData, train: AnnData | None, settings: Settings
) -> Prepared:
    """Read all cells and take them through the round trip; parameters and errors as `evaluate`."""
    conditions = Conditions.of(real, settings.by)
    made_codes = conditions.codes(condition_labels(generated, settings.by, GENERATED))
    found = profiles(real, REAL, settings.layer)
    # Ties of their own: a generated cell may have the name of a real one.
    made = generated_cells(
        generated, settings.top_k, settings.seed + GENERATED_TIES, found.vocabulary
    )
    genes = shared_genes(found.vocabulary, made.cells.vocabulary)
    truth = _Labelled(found.among(genes, REAL), condition_labels(real, settings.by, REAL))
    seen = None
    if train is not None:
        cells = profiles(train, TRAIN, settings.layer).among(genes, TRAIN)
        seen = _Labelled(cells, condition_labels(train, settings.by, TRAIN))
    trip = _round_trip(genes, made.top_k, real if train is None else train, settings)
    codes = conditions.codes(truth.labels)
    sentences = trip.rank(truth.cells)
    written = trip.expression(sentences)
    training = None if seen is None else trip.expression(trip.rank(seen.cells))
    trip = _with_space(
        trip, written if training is None else training, real if train is None else train, settings
    )
    real_cells = Candidate("ceiling", codes, written, trip.points(written), sentences)
    measured = trip.look(truth.cells.matrix)
    floors, missing, control = _floors(trip, truth, real_cells, seen, conditions, settings)
    ours = rename(made.cells, genes)
    fitted_on = "given"
    if isinstance(settings.encoder, str) and is_fitted(settings.encoder):
        fitted_on = "real" if seen is None else "train"
    return Prepared(
        conditions=conditions,
        trip=trip,
        real=real_cells,
        generated=candidate("generated", trip, ours, made_codes),
        floors=floors,
        other_ties=replace(
            real_cells, name="other_ties", sentences=trip.rank(truth.cells, settings.seed + 1)
        ),
        plain=Candidate("measured", codes, measured, trip.points(measured), None),
        control=control,
        seen=None if training is None else trip.points(training),
        fitted_on=fitted_on,
        form=made.form,
        notes=_notes(found, train is not None, 1 - len(ours.genes) / max(1, len(made.cells.genes))),
        missing=missing,
    )


def _round_trip(
    genes: GeneVocabulary, top_k: int, source: AnnData, settings: Settings
) -> RoundTrip:
    """Return the way that all cells take, up to the space; a line that is not given is fitted on `source`."""
    measured = genes if settings.genes is None else programme(genes, settings.genes)
    line = settings.inverse or fit_inverse(source, layer=settings.layer, seed=settings.seed)
    return RoundTrip(genes, measured, top_k, line, settings.encoder, settings.seed)


def _with_space(
    trip: RoundTrip, training: sp.csr_matrix, source: AnnData, settings: Settings
) -> RoundTrip:
    """Return the way with its encoder opened; one that is fitted is fitted on `training`, after the round trip."""
    if not isinstance(trip.encoder, str):
        return trip
    counts = _counts(source, trip.measured, settings.layer) if trip.encoder == "scvi" else None
    opened = open_encoder(
        trip.encoder,
        training=(training, trip.measured),
        counts=counts,
        device=settings.device,
        seed=settings.seed,
    )
    return replace(trip, encoder=opened)


def _counts(adata: AnnData, genes: GeneVocabulary, layer: str | None) -> sp.csr_matrix | None:
    """Return raw counts over some genes, or None where the matrix holds none."""
    stored, var = expression(adata, layer)
    matrix = sp.vstack([block for _, block in csr_blocks(stored)], format="csr")
    if matrix_kind(matrix) != "counts":
        return None
    return align_columns("scvi", matrix, GeneVocabulary.from_var(var), genes)


def _notes(real: Profiles, has_training: bool, dropped: float) -> list[str]:
    notes = []
    if not has_training:
        notes.append(
            "No training cells were given: the floor of independent genes is made of the real cells themselves, which "
            "makes it harder to beat, a space that is fitted is fitted on them too, and memorising cannot be checked."
        )
    if real.kind == "logged":
        notes.append(
            "The real cells hold logged values, which were taken to be log10(1 + x) of 10,000 counts a cell."
        )
    if dropped > MOST_DROPPED:
        notes.append(
            f"{dropped:.1%} of the generated words are genes that the real cells do not have; those sentences are "
            "shorter than the real ones, and look worse for it."
        )
    return notes


def _floors(
    trip: RoundTrip,
    truth: _Labelled,
    real: Candidate,
    seen: _Labelled | None,
    conditions: Conditions,
    settings: Settings,
) -> tuple[list[Candidate], list[dict[str, str]], dict[int, np.ndarray]]:
    """Make the floors; say which cannot be made; and find the control cells of each condition."""
    codes = conditions.codes(truth.labels)
    wanted = {c: int((codes == c).sum()) for c in range(len(conditions))}
    source = truth if seen is None else seen
    floors = [resampled(trip, source.cells, conditions.codes(source.labels), wanted, settings.seed)]
    missing: list[dict[str, str]] = []
    control = settings.control
    if control is None:
        return floors, missing, {}
    _require_control(control, conditions)
    untreated = control_rows(conditions, control, truth.labels)
    if untreated:
        rows = np.concatenate(list(untreated.values()))
        of = np.repeat(list(untreated), [len(part) for part in untreated.values()])
        floors.append(real.take(rows, "control", of.astype(np.int64)))
    else:
        reason = f"no real cell has {control.column} {control.value!r} and the other labels of a condition"
        missing.append(left_out("", "control", "", reason))
    if seen is None:
        reason = "the mean response is taken from training cells, and none were given"
        missing.append(left_out("", "mean_shift", "", reason))
    elif untreated:
        floors.append(
            mean_shift(
                trip, truth.cells, untreated, seen.cells, seen.labels, conditions, control, settings.seed
            )
        )  # fmt: skip
    return floors, missing, untreated


def _require_control(control: Control, conditions: Conditions) -> None:
    at = conditions.by.index(control.column)
    known = sorted({value[at] for value in conditions.values})
    if control.value not in known:
        raise UsageError(
            f"control: no real cell has {control.column} {control.value!r}; it has {listing(known)}"
        )


def left_out(condition: str, name: str, metric: str, reason: str) -> dict[str, str]:
    """Return a row of `Evaluation.left_out`; an empty field means all of its kind."""
    return {"condition": condition, "candidate": name, "metric": metric, "reason": reason}
