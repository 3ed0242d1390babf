"""`c2s evaluate` and `c2s compare`: how good generated cells are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.options import AsJson, Debug, Device, Layer, Seed
from c2s.common.errors import UsageError, listing, nearest, warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from c2s.cells.inverse import RankExpressionModel
    from c2s.evaluate.result import Evaluation


#: Candidates that tell about the round trip: not in the tables of the terminal.
_ASIDE = ("round_trip", "measured")


def evaluate(
    real: Annotated[
        Path, typer.Argument(help="Held-out real cells, with labels in obs.", show_default=False)
    ],
    generated: Annotated[
        Path,
        typer.Argument(
            help="Generated cells: of c2s generate, or expression of any generator.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results.", show_default=False)
    ],
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="Columns of obs that make a condition, as cell_type,perturbation.",
            show_default=False,
        ),
    ],
    train: Annotated[
        Path | None,
        typer.Option(
            "--train", help="Cells that the generator was trained on.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Column of obs of REAL with 'test' and 'train': test cells are compared, train cells are --train.",
            show_default=False,
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            help="Which cells are untreated, as perturbation=control.",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Column whose values are drawn as wholes for intervals (donor, drug); by default donor.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="Space: pca, pca:30, pca:FILE.npz, scvi, scvi:FOLDER, scgpt:FOLDER, geneformer:FOLDER, c2s:FOLDER.",
        ),
    ] = "pca",
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            help="Folder of an earlier evaluation: the same space, genes and sentence length, for c2s compare.",
            show_default=False,
        ),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(
            "--genes",
            help="Look only at these genes: a file of names, or FILE.gmt:SET.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Take the line from rank to expression of this model, instead of fitting one.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", help="Names, separated by commas; by default a choice.", show_default=False
        ),
    ] = None,
    min_cells: Annotated[
        list[str] | None,
        typer.Option(
            "--min-cells",
            help="Fewest cells on each side for a metric, as scfid=30; may be given several times.",
            show_default=False,
        ),
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="Cells of one name are a pair, for overlap.")
    ] = False,
    splits: Annotated[
        int, typer.Option("--splits", help="Random halves that figures are means of.", min=2)
    ] = 30,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            help="Genes of a sentence; by default as generated.",
            min=1,
            show_default=False,
        ),
    ] = None,
    layer: Layer = None,
    cell_eval: Annotated[
        bool, typer.Option("--cell-eval", help="Also write files that cell-eval reads.")
    ] = False,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare generated cells with held-out real ones, beside floors and ceilings; writes a folder with a report."""
    from c2s.cells.readers import read
    from c2s.common.files import refuse_foreign
    from c2s.evaluate.compare import evaluate as run
    from c2s.report.evaluation_files import WRITTEN, write_evaluation

    refuse_foreign(out, WRITTEN)
    if train is not None and split is not None:
        raise UsageError("give either --train or --split, not both")
    if cell_eval and control is None:
        raise UsageError(
            "--cell-eval: cell-eval compares treated with control cells; say which they are, as "
            "--control perturbation=control"
        )
    columns = [name.strip() for name in by.split(",") if name.strip()]
    wanted = _wanted(min_cells or [])
    panel = None if genes is None else _gene_words(genes)
    inverse = None if model is None else _inverse(model)
    truth = read(real)
    seen = None if train is None else read(train)
    if split is not None:
        truth, seen = _parts(truth, split, real)
    made = read(generated)
    _require_order(truth, seen, real, generated)
    if like is not None:
        if encoder != "pca" or top_k is not None:
            raise UsageError(
                "--like takes encoder and sentence length from there; leave --encoder and --top-k out"
            )
        made, encoder, top_k = _like(like, made, generated)
    found = run(
        truth, made, columns, train=seen, control=control, cluster=cluster, genes=panel, encoder=encoder,
        inverse=inverse, top_k=top_k, layer=layer,
        metrics=None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()],
        min_cells=wanted, paired=paired, n_splits=splits, device=device, seed=seed,
    )  # fmt: skip
    found.facts["files"] = _files(real=real, generated=generated, train=train)
    cells = (truth, made) if cell_eval else None
    write_evaluation(
        out, found, title=f"{generated.name} against {real.name}", cell_eval=cells, layer=layer
    )
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    show_evaluation(found, out)


def compare(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="Folders of c2s evaluate, or NAME=FOLDER; two or more.", show_default=False
        ),
    ],
    scope: Annotated[
        str, typer.Option("--scope", help="mean (over conditions) or together (one sample).")
    ] = "mean",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="A .csv file for the table.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put evaluations of several models into one table; refuses those with another encoder, cells or settings."""
    from c2s.common.files import atomic_file, json_able
    from c2s.evaluate.result import Evaluation, compare_evaluations

    if scope not in ("mean", "together"):
        raise UsageError(f"--scope: found {scope!r}, expected mean or together")
    if out is not None and out.suffix != ".csv":
        raise UsageError(f"--out {out}: must end in .csv")
    if len(folders) < 2:
        raise UsageError(f"found only {folders[0]}, expected two or more folders of c2s evaluate")
    named: dict[str, Evaluation] = {}
    for text in folders:
        name, path = _named_folder(text)
        if name in named:
            raise UsageError(f"two evaluations are called {name!r}; name them, as NAME=FOLDER")
        named[name] = Evaluation.read(path)
    table = compare_evaluations(named, scope)
    if out is not None:
        with atomic_file(out) as temporary:
            table.to_csv(temporary, index=False)
    if as_json:
        print(json.dumps(json_able(table.to_dict("records"))))
    else:
        _show_comparison(table, list(named))


def _named_folder(text: str) -> tuple[str, Path]:
    """Read FOLDER or NAME=FOLDER; a folder may have "=" in its name."""
    from c2s.evaluate.measuring import CANDIDATES

    name, found, folder = text.partition("=")
    if not found or Path(text).exists():
        name, folder = Path(text).resolve().name, text
    if not name or not folder:
        raise UsageError(f"found {text!r}, expected FOLDER or NAME=FOLDER")
    if name in CANDIDATES:
        raise UsageError(
            f"{text}: {name!r} already stands in the table; name the model, as NAME=FOLDER"
        )
    return name, Path(folder)


def show_evaluation(found: Evaluation, out: Path) -> None:
    """Print the tables that close `c2s evaluate`."""
    from rich.console import Console

    from c2s.evaluate.measures import MEASURES
    from c2s.report.evaluation import left_out_summary

    console = Console()
    facts = found.facts
    console.print(
        f"{facts['n_generated']:,} generated against {facts['n_real']:,} real cells, {facts['n_compared']} of "
        f"{facts['n_conditions']} conditions, sentences of {facts['top_k']} genes",
        highlight=False,
    )
    for line in facts["notes"]:
        if line.startswith("Probably copies"):
            console.print(line, highlight=False, style="bold red")
    for scope, title in (
        ("mean", f"Mean over {facts['n_compared']} conditions"),
        ("together", "All conditions as one sample"),
    ):
        summary = found.summary(scope)
        if len(summary):
            rows = found.table[found.table["scope"] == scope]
            console.print(_summary_table(summary, title, MEASURES, rows))
    memory = facts["memorisation"]
    if memory is not None:
        console.print(
            f"nearest training cell: generated {memory['generated_median']:.3g}, real {memory['real_median']:.3g} "
            f"(ratio {memory['median_ratio']:.2f}; far below 1 means copies)",
            highlight=False,
        )
    for line in [facts["intervals"], *facts["notes"], *left_out_summary(found)]:
        console.print(line, highlight=False, style="dim")
    console.print(f"Encoder: {facts['encoder']}", highlight=False)
    console.print(f"Report: {(out / 'report.html').resolve()}", highlight=False, soft_wrap=True)


def _summary_table(summary: pd.DataFrame, title: str, measures: Any, rows: pd.DataFrame) -> Any:
    """Return a table of one scope; a value that fewer conditions have than others says how many."""
    from rich.table import Table

    n_conditions = rows.set_index(["metric", "candidate"])["n_conditions"]
    most = n_conditions.max()
    table = Table(title=title, title_justify="left")
    table.add_column("")
    shown = [c for c in summary.columns if c not in _ASIDE and c != "standing"]
    for column in shown:
        table.add_column(column.replace("_", " "), justify="right")
    table.add_column("standing")
    for name, row in summary.iterrows():
        cells = []
        for column in shown:
            value = "–" if row[column] != row[column] else f"{row[column]:.3g}"
            n = n_conditions.get((name, column), most)
            cells.append(value if n == most else f"{value} ({n} of {most})")
        table.add_row(
            f"{measures[name].title} {_arrow(measures[name].metric)}", *cells, row["standing"]
        )
    return table


def _arrow(metric: Any) -> str:
    if metric.name == "c2st":
        return "→ 0.5"
    return "↓" if metric.best == "lower" else "↑"


def _show_comparison(table: pd.DataFrame, models: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from c2s.evaluate.measures import MEASURES

    others = [n for n in table["model"].unique() if n not in models and n not in _ASIDE]
    columns = [*models, *others]
    shown = Table()
    shown.add_column("")
    for column in columns:  # a number is never cut off
        shown.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for metric in dict.fromkeys(table["metric"]):
        rows = table[table["metric"] == metric].set_index("model")
        cells = []
        for name in columns:
            if name not in rows.index:
                cells.append("–")
                continue
            value, low, high = (float(rows.loc[name, c]) for c in ("value", "low", "high"))
            cells.append(f"{value:.3g}" + ("" if low != low else f" ({low:.3g}–{high:.3g})"))
        shown.add_row(f"{MEASURES[metric].title} {_arrow(MEASURES[metric].metric)}", *cells)
    Console().print(shown)


def _require_order(truth: AnnData, seen: AnnData | None, real: Path, generated: Path) -> None:
    """Refuse the mistakes that would be measured in silence."""
    if real.is_file() and generated.is_file() and real.samefile(generated):
        raise UsageError(
            f"{real} and {generated} are the same file; REAL comes first, GENERATED second"
        )
    if "generate" in truth.uns.get("c2s", {}):
        raise UsageError(f"{real} was written by c2s generate; REAL comes first, GENERATED second")
    if seen is None and "split" in truth.obs:
        parts = set(truth.obs["split"].astype(str))
        if {"train", "test"} <= parts:
            warn(
                f"{real}: obs['split'] tells training from test cells; give --split split to use it"
            )


def _like(folder: Path, made: AnnData, path: Path) -> tuple[AnnData, str, int]:
    """Return generated cells over the genes of an earlier evaluation, its encoder and its sentence length."""
    import numpy as np

    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.encoders.pca import PCAEncoder
    from c2s.evaluate.result import Evaluation

    facts = Evaluation.read(folder).facts
    encoder = PCAEncoder.load(folder / "encoder.npz")
    genes = encoder.vocabulary_
    if genes is None or len(genes) != facts["n_genes"]:
        raise UsageError(
            f"--like {folder}: was about a programme of genes; give --encoder and --genes yourself"
        )
    columns = genes.align(GeneVocabulary.from_var(made.var))
    if (columns < 0).any():
        raise UsageError(
            f"--like {folder}: {path} lacks {int((columns < 0).sum()):,} of its {len(genes):,} genes "
            f"({listing([genes.words[i] for i in np.flatnonzero(columns < 0)[:3]])})"
        )
    return made[:, columns].copy(), f"pca:{folder / 'encoder.npz'}", int(facts["top_k"])


def _wanted(texts: list[str]) -> dict[str, int]:
    wanted = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.strip().isdigit():
            raise UsageError(f"--min-cells: found {text!r}, expected METRIC=NUMBER, as scfid=30")
        wanted[name.strip()] = int(number)
    return wanted


def _gene_words(text: str) -> list[str]:
    """Return the genes of a file of names, or of a set in a GMT file."""
    from c2s.cli.files import text_lines
    from c2s.knowledge.gene_sets import read_gmt

    file, found, name = text.rpartition(".gmt:")
    if not found:
        words = text_lines(Path(text))
        if not words:
            raise UsageError(f"--genes {text}: the file is empty, expected a gene a line")
        return words
    sets = {each.name: each for each in read_gmt(f"{file}.gmt")}
    if name not in sets:
        close = nearest(name, sets) or list(sets)
        raise UsageError(f"--genes: {file}.gmt has no set {name!r}; it has {listing(close, 3)}")
    return list(sets[name].genes)


def _inverse(name: str) -> RankExpressionModel:
    from c2s.cells.inverse import RankExpressionModel
    from c2s.models.directory import find_model, load_model

    lines = load_model(find_model(name), device="cpu").card.inverse
    if len(lines) != 1:
        raise UsageError(
            f"--model {name}: has {len(lines)} lines from rank to expression ({listing(list(lines)) or 'none'}), "
            "expected one; leave --model out and one is fitted"
        )
    return RankExpressionModel.from_dict(next(iter(lines.values())))


def _parts(adata: AnnData, column: str, path: Path) -> tuple[AnnData, AnnData]:
    """Return the test cells and the training cells of one file."""
    if column not in adata.obs:
        raise UsageError(
            f"{path}: obs has no column {column!r}; it has {listing([str(c) for c in adata.obs.columns])}"
        )
    part = adata.obs[column].astype(str)
    for name in ("test", "train"):
        if not (part == name).any():
            raise UsageError(
                f"{path}: no cell has obs[{column!r}] = {name!r}; it has {listing(sorted(part.unique()))}"
            )
    return adata[(part == "test").to_numpy()].copy(), adata[(part == "train").to_numpy()].copy()


def _files(**paths: Path | None) -> dict[str, dict[str, str]]:
    from c2s.common.files import sha256

    return {
        what: {"name": path.name, **({"sha256": sha256(path)} if path.is_file() else {})}
        for what, path in paths.items()
        if path is not None
    }
