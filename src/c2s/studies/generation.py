"""Generation studies: cells of given types by a model and by baselines, each beside the same held-out real cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.baselines.copula import GaussianCopula
from c2s.baselines.generation import GenerationBaseline, IndependentResampling
from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import rank_matrix
from c2s.cells.sentences import fit_inverse
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.progress import OnStage
from c2s.evaluate.compare import evaluate
from c2s.evaluate.conditions import JOINT
from c2s.evaluate.measures import MEASURES, chosen_measures
from c2s.evaluate.measuring import CANDIDATES
from c2s.evaluate.result import Evaluation, compare_evaluations
from c2s.evaluate.wording import left_out_summary
from c2s.studies.cells import TEST, TRAIN, StudyCells
from c2s.studies.encoders import StudyEncoders
from c2s.studies.findings import MODEL, Findings, Section, interval_figure, with_interval
from c2s.studies.model import StudyModel, generated_labels
from c2s.studies.recipe import GenerationSettings

if TYPE_CHECKING:
    from anndata import AnnData

#: Genes of a sentence where neither recipe nor model says it.
TOP_K = 100
#: The generator that `evaluate` has among its floors too.
_FLOOR = "independent"
#: Generated cells whose median distance to training cells is below this share of that of real cells may be copies.
_NEAR = 0.8


def check_generation(
    settings: GenerationSettings, has_control: bool, encoders: StudyEncoders
) -> None:
    """Refuse names of metrics, generators and encoders that cannot work; errors as `StudyEncoders.check`."""
    chosen_measures(settings.metrics, has_control)
    if len(set(settings.generators)) < len(settings.generators):
        raise UsageError(f"generators: one is named twice: {', '.join(settings.generators)}")
    encoders.check(settings.encoders)
    if "scvi" in settings.generators:
        encoders.check(["scvi"])


@dataclass(frozen=True)
class _Maker:
    """Makes cells over the genes of the study, from labels and organisms; `known` labels, or None for any."""

    name: str
    known: frozenset[str] | None
    make: Callable[[np.ndarray, np.ndarray], AnnData]

    def can(self, label: str) -> bool:
        return self.known is None or label in self.known


def run_generation(
    cells: StudyCells,
    settings: GenerationSettings,
    model: StudyModel | None,
    encoders: StudyEncoders,
    *,
    control: str | None = None,
    device: str | None = None,
    seed: int = 0,
    on_stage: OnStage,
) -> Findings:
    """Let every generator make as many cells of each label as a part has real ones, and compare part by part.

    All generators make cells over the same genes, which are those of the model, and are compared in the same space
    (`c2s.evaluate.result.compare_evaluations` refuses anything else). Where a part has labels that some generator never
    saw and others that all saw, only the latter are compared; where all are unseen, only those that can make unseen
    labels take part: the model, and the floors of `evaluate`.

    Parameters
    ----------
    cells
        Dealt to parts.
    settings
        Which generators, spaces and metrics.
    model
        Asked besides, or None.
    encoders
        Of the spaces that are not fitted.
    control
        "COLUMN=VALUE" of untreated cells, as `c2s.evaluate.compare.evaluate` takes it.
    device
        Where networks run.
    seed
        Of what is drawn.
    on_stage
        See `c2s.studies.train.OnStage`.

    Raises
    ------
    InputError
        A part has no label of at least two cells.
    """
    top_k = settings.top_k or (TOP_K if model is None else model.model.card.top_k)
    columns = _columns(cells, model, settings, top_k, seed)
    line = fit_inverse(cells.adata(cells.rows(TRAIN)), seed=seed)
    findings = Findings(facts={"top_k": top_k, "genes_generated": len(columns), "seconds": {}})
    makers: list[_Maker] = []
    for name in settings.generators:
        done, started = on_stage(f"Fitting {name}", 1), time.perf_counter()
        makers.append(_baseline(name, cells, columns, device, seed))
        findings.facts["seconds"][f"fitting {name}"] = round(time.perf_counter() - started, 1)
        done(1)
    if model is not None:
        makers.append(_of_model(model, cells, top_k, seed))
    comparison = _Comparison(
        cells, settings, encoders, line, top_k, control, device, seed, on_stage, findings
    )
    for part in cells.measured_parts:
        comparison.of_part(part, makers)
    names = {str(row["method"]) for row in findings.rows} - {maker.name for maker in makers}
    shown = [f"- {name}: {what}" for name, what in CANDIDATES.items() if name in names]
    if shown:
        findings.sections.append(Section("What stands beside the generators", ["\n".join(shown)]))
    return findings


def _columns(
    cells: StudyCells,
    model: StudyModel | None,
    settings: GenerationSettings,
    top_k: int,
    seed: int,
) -> np.ndarray:
    """Return the columns of the genes that are generated: the model's, else those among the top K of training cells."""
    if model is not None:
        columns = np.flatnonzero(cells.vocabulary.align(model.model.vocabulary) >= 0)
    else:
        rows = cells.rows(TRAIN)
        ids = cells.obs.index[rows].to_numpy(dtype=object)
        top = rank_matrix(cells.counts[rows], cells.vocabulary, ids, top_k=top_k, seed=seed)
        often = np.bincount(top.genes, minlength=len(cells.vocabulary)) >= settings.min_cells
        columns = np.flatnonzero(often)
    if len(columns) < top_k:
        raise InputError(
            f"{cells.name}: {len(columns):,} genes could be generated, and a sentence is to have {top_k:,}; use a "
            "smaller top_k"
        )
    return columns


def _baseline(
    name: str, cells: StudyCells, columns: np.ndarray, device: str | None, seed: int
) -> _Maker:
    baseline: GenerationBaseline
    if name == "independent":
        baseline = IndependentResampling()
    elif name == "copula":
        baseline = GaussianCopula(seed=seed)
    else:
        from c2s.baselines.scvi_sampling import ScviSampling

        baseline = ScviSampling(seed=seed, device=device)
    rows = cells.rows(TRAIN)
    matrix = (cells.counts if baseline.needs_counts else cells.values)[rows][:, columns]
    baseline.fit(sp.csr_matrix(matrix), cells.labels[rows].astype(str))
    genes = GeneVocabulary.from_words([cells.vocabulary.words[c] for c in columns])

    def make(labels: np.ndarray, organism: np.ndarray) -> AnnData:
        del organism
        return _expressed(baseline.sample(labels.astype(str), seed), genes, name)

    return _Maker(name, frozenset(str(t) for t in baseline.types_), make)


def _expressed(matrix: sp.csr_matrix, genes: GeneVocabulary, name: str) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(index=[f"{name}-{i}" for i in range(matrix.shape[0])])
    return AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=list(genes.words)))


def _of_model(study: StudyModel, cells: StudyCells, top_k: int, seed: int) -> _Maker:
    from c2s.analysis.generate import cells_to_adata, default_sampling, generate_cells

    model, sampling = study.model, default_sampling(study.model, seed=seed)
    columns = np.flatnonzero(model.vocabulary.align(cells.vocabulary) >= 0)
    # Genes that the data do not have would be left out of the comparison, and sentences shorter than others.
    panel = None
    if len(columns) < len(model.vocabulary):
        panel = [model.vocabulary.words[c] for c in columns]

    def make(labels: np.ndarray, organism: np.ndarray) -> AnnData:
        asked = generated_labels(study, labels)
        made = generate_cells(model, asked, organism, top_k=top_k, sampling=sampling, genes=panel)
        return cells_to_adata(model, made, labels, str(organism[0]), sampling)

    return _Maker(MODEL, None, make)


@dataclass(frozen=True)
class _Comparison:
    """What all comparisons of a study have in common."""

    cells: StudyCells
    settings: GenerationSettings
    encoders: StudyEncoders
    line: RankExpressionModel
    top_k: int
    control: str | None
    device: str | None
    seed: int
    on_stage: OnStage
    findings: Findings

    def of_part(self, part: str, makers: Sequence[_Maker]) -> None:
        """Make the cells of a part, compare them in every space, and add what comes out."""
        rows, able, notes = _who_can(self.findings, self.cells, part, makers, self.control)
        if not able:
            notes.append("No method of this study can make these cells; nothing was compared.")
            self.findings.sections.append(Section(f"Generation: {part}", notes))
            return
        made = {maker.name: self._made(maker, rows, part) for maker in able}
        for spec in self.settings.encoders:
            results = self._results(spec, rows, made, part)
            _add(self.findings, part, spec, results, notes, self.cells)

    def _made(self, maker: _Maker, rows: np.ndarray, part: str) -> AnnData:
        """Let a generator make a cell of the label of each row."""
        what = f"Generating by {maker.name}: {part}"
        done, started = self.on_stage(what, 1), time.perf_counter()
        labels = self.cells.labels[rows]
        made = maker.make(labels, self.cells.organism[rows])
        for at, column in enumerate(self.cells.by):
            made.obs[column] = [str(label).split(JOINT)[at] for label in labels]
        self.findings.facts["seconds"][what.lower()] = round(time.perf_counter() - started, 1)
        done(1)
        return made

    def _results(
        self, spec: str, rows: np.ndarray, made: Mapping[str, AnnData], part: str
    ) -> dict[str, Evaluation]:
        """Compare every generator's cells with the real ones of some rows, in one space."""
        done = self.on_stage(f"Comparing by {spec}: {part}", len(made))
        cells, space = self.cells, spec if _is_fitted(spec) else self.encoders.open(spec)
        real = cells.adata(_with_control(cells, rows, self.control))
        results: dict[str, Evaluation] = {}
        for name, adata in made.items():
            results[name] = evaluate(
                real,
                adata,
                cells.by,
                train=cells.adata(cells.rows(TRAIN)),
                control=self.control,
                cluster=None if cells.donors is None else cells.donors.column,
                encoder=space,
                inverse=self.line,
                top_k=self.top_k,
                metrics=self.settings.metrics,
                n_splits=self.settings.splits,
                device=self.device,
                seed=self.seed,
            )
            # Fitted once for all: the cells and genes are the same, and so would be the space.
            space = results[name].encoder or space
            done(1)
        return results


def _is_fitted(spec: str) -> bool:
    """Return whether an encoder is fitted for each comparison, on training cells after the round trip."""
    kind, _, where = spec.partition(":")
    return kind in ("pca", "scvi") and (not where or where.isdigit())


def _with_control(cells: StudyCells, rows: np.ndarray, control: str | None) -> np.ndarray:
    """Return rows together with all untreated cells that are not trained on; `evaluate` looks for them there."""
    if control is None:
        return rows
    column, _, value = control.partition("=")
    untreated = np.flatnonzero(cells.obs[column.strip()].astype(str) == value.strip())
    held = np.isin(cells.part[untreated].astype(str), cells.measured_parts)
    return np.union1d(rows, untreated[held])


def _who_can(
    findings: Findings, cells: StudyCells, part: str, makers: Sequence[_Maker], control: str | None
) -> tuple[np.ndarray, list[_Maker], list[str]]:
    """Return the rows of a part that are compared, the generators that can make their labels, and what to say."""
    rows = cells.rows(part)
    if control is not None:
        column, _, value = control.partition("=")
        treated = cells.obs[column.strip()].iloc[rows].astype(str).to_numpy() != value.strip()
        rows = rows[treated]
    if len(rows) == 0:
        return rows, [], ["All cells of this part are untreated."]
    labels = sorted({str(label) for label in cells.labels[rows]})
    makeable = [label for label in labels if all(maker.can(label) for maker in makers)]
    if len(makeable) == len(labels):
        return rows, list(makers), []
    if makeable:
        unseen = [label for label in labels if label not in makeable]
        for label in unseen:
            findings.left_out.append(
                _left_out(
                    part, "", label, "no training cell has this label, and baselines cannot make it"
                )
            )
        note = f"Compared are the {len(makeable)} labels that training cells have; left out: {', '.join(unseen)}."
        return rows[np.isin(cells.labels[rows].astype(str), makeable)], list(makers), [note]
    able = [maker for maker in makers if all(maker.can(label) for label in labels)]
    reason = "no training cell has any of these labels"
    unable = [maker.name for maker in makers if maker not in able]
    for name in unable:
        findings.left_out.append(_left_out(part, name, "", reason))
    return rows, able, [f"{', '.join(unable)}: left out, {reason}."]


def _left_out(part: str, method: str, label: str, reason: str, metric: str = "") -> dict[str, str]:
    return {"part": part, "method": method, "label": label, "metric": metric, "reason": reason}


def _add(
    findings: Findings,
    part: str,
    spec: str,
    results: Mapping[str, Evaluation],
    notes: Sequence[str],
    cells: StudyCells,
) -> None:
    """Add the figures of one part and space; floors and ceiling once, from the first evaluation."""
    compare_evaluations(results)  # refuses what must not stand in one table
    first = next(iter(results.values()))
    encoder = str(first.facts["encoder"])
    for position, (name, result) in enumerate(results.items()):
        table = result.table
        own = table["candidate"] == "generated"
        if position == 0:
            own |= ~table["candidate"].isin(["generated", *results])
        for row in table[own].to_dict("records"):
            method = name if row["candidate"] == "generated" else row["candidate"]
            findings.rows.append(
                {
                    "part": part,
                    "task": "generation",
                    "encoder": encoder,
                    "method": method,
                    "scope": "label" if row["scope"] == "condition" else row["scope"],
                    "label": row["condition"],
                    "n_labels": row["n_conditions"],
                    **{k: row[k] for k in ("metric", "value", "low", "high", "n_cells")},
                }
            )
        for row in result.left_out.to_dict("records"):
            if position == 0 or row["candidate"] == "generated":
                method = name if row["candidate"] == "generated" else row["candidate"]
                line = _left_out(part, method, row["condition"], row["reason"], row["metric"])
                if line not in findings.left_out:
                    findings.left_out.append(line)
    pseudo = cells.donors is not None and cells.donors.pseudo
    told = cells.intervals(cells.rows(part)) if pseudo else first.facts["intervals"]
    space = f"Space: {spec} ({encoder}, {first.facts['n_dimensions']} dimensions)."
    sentences = [f"{space} {told}", *notes, _who_wins(results), *_standings(results)]
    gone = left_out_summary(first)
    if gone:
        sentences.append("Left out:\n\n" + "\n".join(f"- {line}" for line in gone))
    mean, together = _table(results, "mean"), _table(results, "together")
    findings.sections.append(
        Section(f"Generation: {part}, mean over labels ({spec})", sentences, mean)
    )
    findings.sections.append(
        Section(f"Generation: {part}, all labels together ({spec})", [], together)
    )
    findings.facts.setdefault("encoders", {})[spec] = encoder
    _picture(findings, part, encoder)


def _standings(results: Mapping[str, Evaluation]) -> list[str]:
    """Say of each generator how it stands between floors and ceiling, and whether it copies."""
    sentences = []
    for name, result in results.items():
        summary = result.summary("mean")
        stands = [
            f"{MEASURES[str(metric)].title}: {text}"
            for metric, text in summary["standing"].items()
            if text
        ]
        if stands and name != _FLOOR:
            sentences.append(f"**{name}**, means over labels. {'; '.join(stands)}.")
        copies = result.facts["memorisation"]
        if copies is not None and copies["median_ratio"] < _NEAR:
            sentences.append(
                f"**{name}** lies nearer to training cells than held-out real cells do (median distance "
                f"{copies['median_ratio']:.2f} times theirs): it may copy, and its distances then mean little."
            )
    return sentences


def _who_wins(results: Mapping[str, Evaluation]) -> str:
    """Say which generator is nearest to real cells (the ceiling) by each metric, and whose intervals overlap with its.

    Not nearest to the ideal value: an unbiased distance may lie below 0, also between real cells.
    """
    if len(results) < 2:
        return ""
    first = next(iter(results.values()))
    said = []
    for metric in MEASURES:
        ceiling = first.value(metric, "ceiling")
        rows = {name: _mean_row(result, metric) for name, result in results.items()}
        known = {name: row for name, row in rows.items() if row is not None}
        if len(known) < 2 or not np.isfinite(ceiling):
            continue
        gaps = {name: abs(row["value"] - ceiling) for name, row in known.items()}
        best = min(gaps, key=lambda name: gaps[name])
        close = [n for n in known if n != best and _overlapping(known[n], known[best])]
        told = f" (intervals overlap with {', '.join(close)})" if close else ""
        said.append(f"{MEASURES[metric].title}: {best}{told}")
    return f"Nearest to the ceiling, by mean over labels. {'; '.join(said)}." if said else ""


def _mean_row(result: Evaluation, metric: str) -> pd.Series | None:
    """Return the generated cells' row of a metric, mean over labels; None where it has no value."""
    table = result.table
    own = table[
        (table["candidate"] == "generated")
        & (table["scope"] == "mean")
        & (table["metric"] == metric)
        & np.isfinite(table["value"])
    ]
    return own.iloc[0] if len(own) else None


def _overlapping(a: pd.Series, b: pd.Series) -> bool:
    """Return whether two intervals overlap; unknown ones do."""
    return not (a["low"] > b["high"] or b["low"] > a["high"])


def _table(results: Mapping[str, Evaluation], scope: str) -> list[list[str]]:
    """Return methods in rows and metrics in columns, floors and ceiling after the generators."""
    first = next(iter(results.values())).table
    tables = {
        name: result.table[result.table["candidate"] == "generated"]
        for name, result in results.items()
    }
    for name in first["candidate"].unique():
        if name not in ("generated", *results):
            tables[name] = first[first["candidate"] == name]
    tables = {name: table[table["scope"] == scope] for name, table in tables.items()}
    there = {metric for table in tables.values() for metric in table["metric"]}
    metrics = [m for m in MEASURES if m in there]
    arrows = {"lower": "↓", "higher": "↑"}
    heading = [
        f"{MEASURES[m].title} {'→ 0.5' if m == 'c2st' else arrows[MEASURES[m].metric.best]}"
        for m in metrics
    ]
    rows = [["method", *heading]]
    for name, table in tables.items():
        records: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        found = {row["metric"]: row for row in records}
        if found:
            rows.append([name, *(with_interval(found[m]) if m in found else "–" for m in metrics)])
    return rows


def _picture(findings: Findings, part: str, encoder: str) -> None:
    """Draw the energy distance, which is fair with few cells; else the first metric of distributions there is."""
    for metric in ("energy_distance", "scfid", "mmd2", "wasserstein"):
        rows = [
            r
            for r in findings.rows
            if (r["part"], r["encoder"], r["metric"], r["scope"]) == (part, encoder, metric, "mean")
            if r["method"] not in ("round_trip", "measured", "other_ties")
        ]
        if rows:
            tail = encoder if part == TEST else f"{encoder}-{part}"
            name = "".join(c if c.isalnum() else "-" for c in f"generation-{tail}")
            title = f"{MEASURES[metric].title}, mean over labels"
            findings.figures[name] = interval_figure(rows, title, MEASURES[metric].metric.ideal)
            return
