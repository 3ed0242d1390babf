"""Files that the Arc Institute's `cell-eval` reads: real and predicted cells, treated and control.

What cell-eval 0.8 asks of the two files: the same genes in the same order; natural-log values, ln(1 + counts per
10,000), below 15; a column of `obs` with the treatment, with the same treatments in both; and control cells in both.
With a column of cell types, this must hold within every cell type.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError, listing
from c2s.common.files import atomic_file
from c2s.evaluate.cells import RoundTrip, generated_cells, profiles, rename, shared_genes
from c2s.evaluate.conditions import JOINT, Control, condition_labels

if TYPE_CHECKING:
    from anndata import AnnData

#: Column with the joined labels, where several beside the treatment make a condition.
STRATUM = "stratum"


@dataclass(frozen=True)
class CellEvalFiles:
    """What `write_cell_eval` wrote.

    Attributes
    ----------
    folder
        Holds ``real.h5ad``, ``predicted.h5ad`` and ``README.txt``.
    command
        Compares the two; to be run in the folder.
    left_out
        Conditions that one of the two files would lack, by name.
    """

    folder: Path
    command: str
    left_out: list[str]


@dataclass(frozen=True)
class _Half:
    """The cells of one file: expression in log10 over shared genes, labels, names."""

    expression: sp.csr_matrix
    labels: pd.DataFrame
    names: np.ndarray

    def take(self, rows: np.ndarray) -> _Half:
        return _Half(self.expression[rows], self.labels.iloc[rows], self.names[rows])

    def joined(self, other: _Half) -> _Half:
        return _Half(
            sp.vstack([self.expression, other.expression], format="csr"),
            pd.concat([self.labels, other.labels]),
            np.concatenate([self.names, other.names]),
        )


def write_cell_eval(
    folder: str | os.PathLike[str],
    real: AnnData,
    generated: AnnData,
    *,
    by: Sequence[str],
    control: str | None,
    inverse: RankExpressionModel,
    top_k: int | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> CellEvalFiles:
    """Write real and generated cells as two files that cell-eval compares.

    All cells take the round trip through sentences, so that both files have the same form. The control cells of both
    are the real ones: what is compared is the response. Generated control cells are left out, and so are treatments
    (within a cell type) that one of the two lacks or that have no control cells.

    Parameters
    ----------
    folder
        Made if it is missing. Files of the same names in it are replaced.
    real, generated
        As `c2s.evaluate.compare.evaluate` takes them.
    by
        Columns of `obs` that make a condition. Beside that of the treatment, one is cell-eval's cell type; several
        are joined in the column "stratum".
    control
        "COLUMN=VALUE", as "perturbation=control".
    inverse
        From rank to expression.
    top_k
        Genes of a sentence; by default as the generated sentences have.
    layer
        Of `real`.
    seed
        Orders ties.

    Raises
    ------
    UsageError
        There is no control, or a column is unknown.
    InputError
        No treatment has real, generated and control cells, or cells cannot be used.
    C2SError
        The folder cannot be written.

    References
    ----------
    https://github.com/ArcInstitute/cell-eval
    """
    if control is None:
        raise UsageError(
            "cell-eval compares treated with control cells, and none were named: give control, as "
            "'perturbation=control', or leave these files out"
        )
    untreated = Control.parse(control, by)
    labels = _labels(real, by, untreated, "the real cells")
    made_labels = _labels(generated, by, untreated, "the generated cells")
    treated, left_out = _in_both(labels, made_labels, untreated)
    strata = {stratum for stratum, _ in treated}
    kept = treated | {(stratum, untreated.value) for stratum in strata}

    found = profiles(real, "the real cells", layer)
    made = generated_cells(generated, top_k, seed, found.vocabulary)
    genes = shared_genes(found.vocabulary, made.cells.vocabulary)
    trip = RoundTrip(genes, genes, made.top_k, inverse, "no space", seed)
    rows = _rows(labels, kept)
    cells = found.take(rows).among(genes, "the real cells")
    truth = _Half(trip.expression(trip.rank(cells)), labels.iloc[rows], cells.cell_ids)
    rows = _rows(made_labels, treated)
    expression = trip.expression(rename(made.cells.take(rows), genes))
    names = generated.obs_names.to_numpy(dtype=object)[rows]
    predicted = _Half(expression, made_labels.iloc[rows], names)

    column = _stratum_column(by, untreated)
    command = _command(untreated, column)
    words = _readme(truth, predicted, untreated, trip.top_k, command, left_out)
    beside = truth.take(np.flatnonzero(truth.labels["treatment"] == untreated.value))
    files = {
        "real.h5ad": _as_anndata(truth, genes, untreated, column),
        "predicted.h5ad": _as_anndata(predicted.joined(beside), genes, untreated, column),
    }
    return CellEvalFiles(_save(Path(folder), files, words), command, left_out)


def _rows(labels: pd.DataFrame, wanted: set[tuple[str, str]]) -> np.ndarray:
    """Return the rows of cells whose (stratum, treatment) is wanted. int64."""
    pairs = labels.itertuples(index=False, name=None)
    return np.flatnonzero([pair in wanted for pair in pairs])


def _save(folder: Path, files: dict[str, AnnData], words: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise C2SError(f"{folder}: cannot be made ({error.strerror or error})") from error
    for name, adata in files.items():
        with atomic_file(folder / name) as temporary:
            adata.write_h5ad(temporary)
    with atomic_file(folder / "README.txt") as temporary:
        temporary.write_text(words, "utf-8")
    return folder


def _labels(adata: AnnData, by: Sequence[str], control: Control, what: str) -> pd.DataFrame:
    """Return each cell's `stratum` (all labels but the treatment, joined) and `treatment`, as text."""
    at = list(by).index(control.column)
    found = condition_labels(adata, by, what)
    rows = [(JOINT.join([*label[:at], *label[at + 1 :]]), label[at]) for label in found]
    return pd.DataFrame(rows, columns=["stratum", "treatment"])


def _in_both(
    real: pd.DataFrame, made: pd.DataFrame, control: Control
) -> tuple[set[tuple[str, str]], list[str]]:
    """Return the treated conditions that real, generated and control cells have, and the names of the others."""
    truth = set(real.itertuples(index=False, name=None))
    wanted = set(made.itertuples(index=False, name=None))
    every = {(s, t) for s, t in truth | wanted if t != control.value}
    kept = {(s, t) for s, t in every & truth & wanted if (s, control.value) in truth}
    if not kept:
        raise InputError(
            f"cell-eval: no treatment has real, generated and control cells; real cells are of "
            f"{listing(sorted(set(real['treatment'])), 4)}, generated ones of "
            f"{listing(sorted(set(made['treatment'])), 4)}, control is {control.value}"
        )
    return kept, sorted(JOINT.join(filter(None, pair)) for pair in every - kept)


def _stratum_column(by: Sequence[str], control: Control) -> str | None:
    """Return the name of the column that cell-eval splits by."""
    others = [name for name in by if name != control.column]
    if not others:
        return None
    return others[0] if len(others) == 1 else STRATUM


def _as_anndata(
    half: _Half, genes: GeneVocabulary, control: Control, column: str | None
) -> AnnData:
    """Return the cells as cell-eval takes them: X is ln(1 + counts per 10,000)."""
    import anndata
    from anndata.utils import make_index_unique

    obs = pd.DataFrame({control.column: half.labels["treatment"].astype("category")})
    if column is not None:
        obs[column] = half.labels["stratum"].astype("category")
    # A generated cell may have the name of a control cell.
    obs.index = make_index_unique(pd.Index(half.names.astype(str)))
    # Ours is log10(1 + x); ln(1 + x) = ln(10) · log10(1 + x).
    values = sp.csr_matrix(half.expression * np.log(10), dtype=np.float32)
    return anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(genes.words)))


def _command(control: Control, column: str | None) -> str:
    words = [
        "cell-eval", "run", "-ap", "predicted.h5ad", "-ar", "real.h5ad",
        "--pert-col", control.column, "--control-pert", control.value,
    ]  # fmt: skip
    if column is not None:
        words += ["--celltype-col", column]
    return shlex.join([*words, "-o", "results"])


def _readme(
    truth: _Half,
    predicted: _Half,
    control: Control,
    top_k: int,
    command: str,
    left_out: Sequence[str],
) -> str:
    """Return what the files are, and what to run."""
    n_control = int((truth.labels["treatment"] == control.value).sum())
    n_real = len(truth.names) - n_control
    lines = [
        "Real and generated cells for cell-eval (https://github.com/ArcInstitute/cell-eval, pip install cell-eval).",
        "In this folder, run:",
        "",
        f"    {command}",
        "",
        f"real.h5ad       {n_real:,} treated cells and {n_control:,} control cells",
        f"predicted.h5ad  {len(predicted.names):,} generated treated cells and the same {n_control:,} control cells",
        "",
        f"X is ln(1 + counts per 10,000) of {truth.expression.shape[1]:,} genes, as cell-eval expects it. All cells,",
        f"real, generated and control, were written as cell sentences of at most {top_k:,} genes and turned back into",
        "expression: generated cells exist in this form only, and a comparison with measured cells would find the",
        "difference of form. So scores do not compare with those of cells that did not take this way.",
        "",
        "The control cells of both files are the real ones, so that the predicted response is what is compared.",
        f"Generated cells with {control.column} {control.value!r} are not in the files.",
    ]
    if left_out:
        lines += [
            "",
            f"Left out, because real, generated or control cells are missing: {listing(left_out, 50)}.",
        ]
    return "\n".join(lines) + "\n"
