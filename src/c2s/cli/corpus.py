"""`c2s corpus`: build, verify, count and show a training corpus."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from c2s.cli.options import AsJson, Debug, Seed
from c2s.common.errors import C2SError, UsageError, warn

if TYPE_CHECKING:
    from c2s.corpus.preview import Preview

app = typer.Typer(
    help="Training corpora: cell sentences and token shards of many tasks from files of cells.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="Folder of a corpus.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes; by default one a core.", min=1, show_default=False),
]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the corpus.", show_default=False)
    ] = None,
    workers: Workers = None,
    engine: Annotated[
        Literal["processes", "ray"] | None,
        typer.Option("--engine", help="Instead of the recipe's.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, measured on a few cells.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build a corpus, or go on with one that was interrupted."""
    from c2s.cli.stages import Stages

    if dry_run:
        from c2s.corpus.preview import preview

        with Stages() as stages:
            found = preview(recipe, workers=workers, on_stage=stages)
        print(json.dumps(asdict(found))) if as_json else _show_preview(found)
        return
    if out is None:
        raise UsageError("--out is missing: name a folder for the corpus, or give --dry-run")
    from c2s.corpus.build import build_corpus

    with Stages() as stages:
        manifest = build_corpus(recipe, out, workers=workers, engine=engine, on_stage=stages)
    for note in manifest["notes"]:
        warn(note)
    if as_json:
        print(json.dumps({k: manifest[k] for k in ("cells", "samples", "tokens", "dropped")}))
    else:
        _show_counts(manifest)
        print(f"Corpus: {out.resolve()}")


@app.command()
def verify(
    folder: Folder, workers: Workers = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Check every byte of a corpus, that no cell is in two splits, and that all counts are right."""
    from c2s.common.progress import progress_bar
    from c2s.corpus.show import read_manifest
    from c2s.corpus.verify import verify_corpus

    units = {Path(name).stem for name in read_manifest(folder)["files"]}
    with progress_bar("Verifying", len(units), "units") as progress:
        problems = verify_corpus(
            folder, workers=workers or len(os.sched_getaffinity(0)), on_unit=progress
        )
    if as_json:
        print(json.dumps({"intact": not problems, "problems": problems}))
    elif not problems:
        print(f"{folder}: intact, {len(units):,} units")
    if problems:
        more = f" ({len(problems) - 1:,} more; --json lists them)" if len(problems) > 1 else ""
        raise C2SError(problems[0] + more)


@app.command()
def stats(folder: Folder, as_json: AsJson = False, debug: Debug = False) -> None:
    """Count cells, samples and tokens by split and task."""
    from rich.console import Console
    from rich.table import Table

    from c2s.corpus.show import statistics

    found = statistics(folder)
    if as_json:
        print(json.dumps(found))
        return
    _show_counts(found)
    console = Console()
    for field, title in (("cell_type", "Cell types"), ("tissue", "Tissues"), ("study", "Studies")):
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for part in found["cells"]:
            table.add_column(part, justify="right")
        total: dict[str, int] = {}
        for part in found["labels"].values():
            for name, n in part.get(field, {}).items():
                total[name] = total.get(name, 0) + n
        for name in sorted(total, key=lambda t: (-total[t], t))[:15]:
            counts = [found["labels"][p].get(field, {}).get(name, 0) for p in found["cells"]]
            table.add_row(name, *(f"{n:,}" for n in counts))
        if len(total) > 15:
            table.add_row(f"and {len(total) - 15:,} more")
        if total:
            console.print(table)
    for part, fill in found["fill"].items():
        console.print(f"{part}: packed sequences are {fill:.1%} full", highlight=False)
    dropped = found["dropped"]
    for what in ("cells", "samples"):
        for reason, n in dropped[what].items():
            console.print(f"left out: {n:,} {what}, {reason}", highlight=False)
    for source in dropped["sources"]:
        console.print(
            f"left out: {source['path']}, the same as {source['same as']}", highlight=False
        )


@app.command()
def sample(
    folder: Folder,
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 5,
    split: Annotated[str | None, typer.Option("--split", help="Only of this split.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only of this task.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Do not shorten long samples.")] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show some samples as text."""
    from rich.console import Console
    from rich.text import Text

    from c2s.corpus.show import show_samples

    samples = show_samples(folder, n, split=split, task=task, seed=seed)
    if as_json:
        print(json.dumps([asdict(s) for s in samples]))
        return
    console = Console()
    for s in samples:
        cells = f", {len(s.cells)} cells" if len(s.cells) > 1 else ""
        study = f", study {s.study}" if s.study else ""
        title = f"{s.task}, {s.split}{study}{cells}, wording {s.wording}, {s.n_tokens:,} tokens"
        console.print(Text(f"── {title}", style="cyan"), soft_wrap=True)
        prompt, response = (t if whole else _shortened(t) for t in (s.prompt, s.response))
        console.print(Text(prompt), Text(response, style="bold"), soft_wrap=True)


def _shortened(text: str, most: int = 600) -> str:
    """Return a text whose middle is left out where it is long."""
    if len(text) <= most:
        return text
    left = len(text) - most
    return f"{text[: most * 2 // 3]} … {left:,} characters … {text[-most // 3 :]}"


def _show_counts(counts: dict[str, Any]) -> None:
    """Print samples and tokens by task and split."""
    from rich.console import Console
    from rich.table import Table

    parts = list(dict.fromkeys([*counts["cells"], *counts["samples"]]))
    table = Table()
    table.add_column("")
    for part in parts:
        table.add_column(part, justify="right")
        table.add_column("tokens", justify="right")
    table.add_row("cells", *(c for p in parts for c in (f"{counts['cells'].get(p, 0):,}", "")))
    tasks = list(dict.fromkeys(t for p in parts for t in counts["samples"].get(p, {})))
    for task in tasks:
        row = []
        for part in parts:
            n = counts["samples"].get(part, {}).get(task, 0)
            row += [f"{n:,}", f"{counts['tokens'].get(part, {}).get(task, 0):,}"]
        table.add_row(task, *row)
    # Wider than a narrow terminal rather than with names cut off.
    console = Console()
    console.width = max(console.width, 24 + 26 * len(parts))
    console.print(table)


def _size(n: int) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= factor:
            return f"{n / factor:,.1f} {unit}"
    return f"{n / 1e3:,.0f} kB"


def _duration(seconds: float) -> str:
    for unit, factor in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


def _show_preview(found: Preview) -> None:
    print(
        f"{found.files:,} files, {found.cells:,} cells of {found.studies:,} studies, {found.genes:,} genes;"
        f" {found.units:,} units of work"
    )
    print(
        f"about {found.samples:,} samples, {found.tokens:,} tokens, {_size(found.bytes)},"
        f" {_duration(found.seconds)}, {found.bytes_per_process / 1e6:,.0f} MB a process beyond its libraries"
        f" (measured on {found.trial_cells:,} cells)"
    )
    if found.teacher is not None:
        cost = found.teacher["cost"]
        print(
            f"teacher: {found.teacher['requests']:,} requests, {found.teacher['input_tokens']:,} tokens in (an"
            f" estimate), at most {found.teacher['output_tokens']:,} out"
            + (f", at most {cost:,.2f}" if cost is not None else "")
        )
    for note in found.notes:
        warn(note)
