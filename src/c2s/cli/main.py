"""The command `c2s`. Every command is thin: it reads, calls the library, writes; libraries load when used."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from c2s.cli.files import text_lines
from c2s.cli.options import AsJson, Debug, Seed
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData

    from c2s.models.directory import Model

app = typer.Typer(
    name="c2s",
    help="Cell sentences and language models for single-cell RNA sequencing. Start with: c2s demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Input = Annotated[
    Path,
    typer.Argument(
        help="Data: .h5ad, .zarr, 10x .h5 or mtx folder, .loom, .csv, .tsv.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where to write.", show_default=False)]
OptionalOut = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", help="Where to write; by default to the terminal.", show_default=False
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model directory or hub id; else $C2S_MODEL, else the demo's model.",
        show_default=False,
    ),
]
Layer = Annotated[
    str | None, typer.Option("--layer", help="'raw' or a layer, instead of X.", show_default=False)
]
TopK = Annotated[
    int | None, typer.Option("--top-k", help="Genes of a cell.", min=1, show_default=False)
]
Genes = Annotated[
    str | None,
    typer.Option(
        "--genes",
        help="Genes that may be ranked: no_mt, no_ribo, no_mt_ribo, a boolean column of var, or a file of names.",
        show_default=False,
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda or mps; by default cuda where there is a GPU.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="float32, bfloat16 or float16; by default as saved.", show_default=False
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="Cells in a batch; by default what fits.", min=1, show_default=False
    ),
]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Cell sentences and language models for single-cell RNA sequencing. Start with: c2s demo."""
    if version:
        from c2s import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")] = Path(
        "demo"
    ),
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train, annotate, generate and measure on packaged pancreas cells, in about six minutes."""
    from c2s.cli.stages import Stages, demo_table
    from c2s.studies.demo import demo_recipe, run_demo

    with Stages() as stages:
        metrics = run_demo(out, demo_recipe(seed=seed), device=device, on_stage=stages)
    if as_json:
        print(json.dumps(metrics))
    else:
        demo_table(metrics, out)


@app.command()
def inspect(
    source: Input, layer: Layer = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Say what is in a data set, what would go wrong with it, and how to mend that."""
    from rich.console import Console
    from rich.table import Table

    from c2s.cells.inspect import inspect as look

    found = look(source, layer)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in found.rows():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for problem in found.problems:
        console.print(f"[yellow]![/] {problem.text}\n  [green]→[/] {problem.mend}", highlight=False)
    if not found.problems:
        console.print("[green]nothing in the way[/]")


@app.command()
def sentences(
    source: Input,
    out: OptionalOut = None,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Genes of a cell; 0 for all expressed.", min=0)
    ] = 200,
    genes: Genes = None,
    layer: Layer = None,
    ties: Annotated[
        Literal["seeded", "alphabetical"],
        typer.Option("--ties", help="Order of genes with equal value."),
    ] = "seeded",
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write cells as sentences: lines of text, or a .parquet with cell_id and cell_sentence."""
    from c2s.cells.readers import read
    from c2s.cells.sentences import cell_sentences

    cells = cell_sentences(
        read(source),
        top_k=top_k or None,
        genes=_genes(genes),
        layer=layer,
        ties=ties,
        seed=seed,
    )
    texts = cells.to_text()
    if out is not None and out.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        from c2s.common.files import atomic_file

        with atomic_file(out) as path:
            pq.write_table(
                pa.table(
                    {"cell_id": pa.array(cells.cell_ids, pa.large_string()), "cell_sentence": texts}
                ),
                path,
            )
        _say(as_json, {"cells": len(cells), "out": str(out)}, f"{len(cells):,} sentences in {out}")
    elif out is not None:
        from c2s.common.files import atomic_file

        with atomic_file(out) as path, path.open("w", encoding="utf-8") as handle:
            handle.writelines(f"{text}\n" for text in texts.to_pylist())
        _say(as_json, {"cells": len(cells), "out": str(out)}, f"{len(cells):,} sentences in {out}")
    elif as_json:
        print(
            json.dumps(
                dict(
                    zip(
                        cells.cell_ids.tolist() if cells.cell_ids is not None else [],
                        texts.to_pylist(),
                        strict=True,
                    )
                )
            )
        )
    else:
        sys.stdout.writelines(f"{text}\n" for text in texts.to_pylist())


@app.command()
def expression(
    source: Annotated[
        Path,
        typer.Argument(
            help="Sentences: lines of text, or .parquet with cell_sentence.", show_default=False
        ),
    ],
    out: Out,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            help="Data set to fit the line from rank to expression on.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Turn sentences back into expression, with the line of a model or one fitted on a data set."""
    import pandas as pd
    from anndata import AnnData

    from c2s.cells.inverse import parse_sentences
    from c2s.cells.readers import read
    from c2s.cells.sentences import fit_inverse

    _check_out(out, ".h5ad")
    ids, texts = _read_sentences(source)
    line = (
        fit_inverse(read(like), seed=seed)
        if like is not None
        else _model(model, "cpu", None).inverse
    )
    assert line.vocabulary is not None
    parsed = parse_sentences(texts, line.vocabulary)
    adata = AnnData(
        X=line.expression(parsed),
        obs=pd.DataFrame(
            {
                "cell_sentence": texts,
                "n_words": parsed.n_words,
                "n_invalid": parsed.n_invalid,
                "n_duplicates": parsed.n_duplicates,
            },
            index=ids,
        ),
        var=pd.DataFrame(index=list(line.vocabulary.words)),
    )
    adata.uns["c2s"] = {"inverse": {k: v for k, v in line.to_dict().items() if v is not None}}
    _write(adata, out)
    invalid = int(parsed.n_invalid.sum())
    _say(
        as_json,
        {"cells": adata.n_obs, "invalid_words": invalid, "out": str(out)},
        f"{adata.n_obs:,} cells in {out}; {invalid:,} words were no genes",
    )


@app.command()
def train(
    recipe: Annotated[
        Path,
        typer.Argument(help="YAML recipe; the documentation has an example.", show_default=False),
    ],
    out: Out,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Instead of the recipe's.", min=0, show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model from random weights on labelled cells."""
    from c2s.cli.stages import Stages
    from c2s.studies.train import TrainRecipe, plan, run_training

    resolved = TrainRecipe.read(recipe)
    if seed is not None:
        resolved = resolved.model_copy(update={"seed": seed})
    if dry_run:
        facts = plan(resolved)
        _say(as_json, facts, "\n".join(f"{k}: {v}" for k, v in facts.items()))
        return
    with Stages() as stages:
        facts = run_training(resolved, out, device=device, on_stage=stages)
    _say(as_json, facts, f"model in {out / 'model'}; validation loss {facts['validation_loss']}")


@app.command()
def annotate(
    source: Input,
    out: Out,
    model: ModelName = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="A candidate; give it once for each. By default those trained on.",
            show_default=False,
        ),
    ] = None,
    views: Annotated[
        int, typer.Option("--views", help="Average over so many wordings and draws of ties.", min=1)
    ] = 1,
    key: Annotated[
        str, typer.Option("--key", help="Column of obs for the label.")
    ] = "c2s_cell_type",
    confidence_key: Annotated[
        str, typer.Option("--confidence-key", help="Column of obs for its probability.")
    ] = "c2s_confidence",
    top_n: Annotated[
        int | None,
        typer.Option(
            "--top-n",
            help="Also a table of so many labels a cell, in obsm.",
            min=1,
            show_default=False,
        ),
    ] = None,
    entropy_key: Annotated[
        str | None,
        typer.Option(
            "--entropy-key",
            help="Also a column of obs for the entropy in nats.",
            show_default=False,
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            help="A cell whose best label is less probable is called unknown.",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        str, typer.Option("--unknown", help="What such a cell is called.")
    ] = "unknown",
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth", help="Column of obs with known labels to compare with.", show_default=False
        ),
    ] = None,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse labels that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the type of every cell, with a probability; writes a copy of the data as .h5ad."""
    from c2s.analysis.annotate import annotate as run
    from c2s.cells.readers import read

    _check_out(out, ".h5ad")
    adata = read(source)
    if truth is not None and truth not in adata.obs:
        raise UsageError(
            f"{source}: obs has no column {truth!r}; it has: {', '.join(map(str, adata.obs.columns)) or 'none'}"
        )
    run(
        adata, _model(model, device, dtype), labels or None, key_added=key,
        confidence_key=confidence_key, top_n=top_n, entropy_key=entropy_key,
        min_confidence=min_confidence, unknown=unknown, views=views, genes=_genes(genes), layer=layer, top_k=top_k,
        batch_size=batch_size, strict=strict, seed=seed,
    )  # fmt: skip
    _write(adata, out)
    counts = {str(k): int(v) for k, v in adata.obs[key].value_counts().items() if v}
    facts: dict[str, Any] = {"cells": adata.n_obs, "labels": counts, "out": str(out)}
    text = f"{adata.n_obs:,} cells in {out}: " + ", ".join(f"{k} {v:,}" for k, v in counts.items())
    if truth is not None:
        known = adata.obs[truth].notna()
        same = adata.obs[key].astype(object)[known] == adata.obs[truth].astype(object)[known]
        facts["accuracy"] = float(same.mean())
        text += f"\nagrees with obs[{truth!r}] for {facts['accuracy']:.1%} of the cells"
    _say(as_json, facts, text)


@app.command()
def embed(
    source: Input,
    out: Out,
    model: ModelName = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Instead of a model: pca, pca:FILE.npz, scvi:FOLDER, scgpt:FOLDER, geneformer:FOLDER.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Name in obsm; by default X_c2s, X_pca, …", show_default=False),
    ] = None,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Embed every cell with a model, or place it with an encoder; writes a copy of the data as .h5ad with obsm."""
    from c2s.analysis.embed import embed as run
    from c2s.analysis.encode import encode
    from c2s.cells.readers import read

    _check_out(out, ".h5ad")
    if encoder is not None:
        for option, value in (
            ("--model", model),
            ("--genes", genes),
            ("--top-k", top_k),
            ("--dtype", dtype),
        ):
            if value is not None:
                raise UsageError(f"{option} belongs to a model; give either it or --encoder")
        key = key or f"X_{encoder.partition(':')[0]}"
        adata = read(source)
        encode(
            adata,
            encoder,
            key_added=key,
            layer=layer,
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
        _write(adata, out)
        name, width = adata.uns["c2s"]["encode"]["model"], adata.obsm[key].shape[1]
        facts = {"cells": adata.n_obs, "dimensions": width, "encoder": name, "out": str(out)}
        _say(
            as_json, facts, f"{adata.n_obs:,} cells × {width} in obsm[{key!r}] of {out}, by {name}"
        )
        return
    key = key or "X_c2s"
    adata = read(source)
    run(
        adata, _model(model, device, dtype), key_added=key, genes=_genes(genes), layer=layer, top_k=top_k,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    _write(adata, out)
    width = adata.obsm[key].shape[1]
    _say(
        as_json,
        {"cells": adata.n_obs, "dimensions": width, "out": str(out)},
        f"{adata.n_obs:,} cells × {width} in obsm[{key!r}] of {out}",
    )


@app.command()
def generate(
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", help='A request, as "generate 7 human beta cells".', show_default=False
        ),
    ] = None,
    cell_type: Annotated[
        list[str] | None,
        typer.Option(
            "--cell-type", help="A cell type; may be given several times.", show_default=False
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", help="Cells of each type; by default 1.", min=1, show_default=False
        ),
    ] = None,
    organism: Annotated[
        str | None, typer.Option("--organism", help="As 'Homo sapiens'.", show_default=False)
    ] = None,
    out: OptionalOut = None,
    model: ModelName = None,
    top_k: TopK = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Of sampling; by default the model's.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            help="Sample from the most probable tokens that reach this; by default the model's.",
            show_default=False,
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            help="File with one gene a line: only these may be written.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a type that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Generate cells: sentences on the terminal, or an .h5ad with expression and sentences."""
    from c2s.analysis.generate import generate as run
    from c2s.analysis.requests import parse_generation_request

    if prompt is not None and cell_type:
        raise UsageError("give either --prompt or --cell-type, not both")
    if out is not None:
        _check_out(out, ".h5ad")
    loaded = _model(model, device, dtype)
    wanted: list[str] | None = cell_type
    if prompt is not None:
        request = parse_generation_request(prompt, loaded)
        print(f"understood as: {request}", file=sys.stderr)
        if organism is not None and request.organism not in (None, organism):
            raise UsageError(
                f"the request says {request.organism}, --organism says {organism}; give one"
            )
        if n is not None and request.n not in (None, n):
            raise UsageError(f"the request says {request.n} cells, --n says {n}; give one")
        n, organism = n or request.n, request.organism or organism
        wanted = [request.cell_type] if request.cell_type else None
    panel = text_lines(genes) if genes is not None else None
    adata = run(
        loaded, wanted, n or 1, organism=organism, top_k=top_k, genes=panel, temperature=temperature, top_p=top_p,
        batch_size=batch_size, strict=strict, seed=seed,
    )  # fmt: skip
    if out is not None:
        _write(adata, out)
        _say(as_json, {"cells": adata.n_obs, "out": str(out)}, f"{adata.n_obs:,} cells in {out}")
        return
    cells = list(zip(adata.obs["cell_type"].astype(str), adata.obs["cell_sentence"], strict=True))
    if as_json:
        print(json.dumps([{"cell_type": t, "cell_sentence": s} for t, s in cells]))
    else:
        for t, s in cells:
            print(f"{t}\t{s}")


def _model(name: str | None, device: str | None, dtype: str | None) -> Model:
    from c2s.models.directory import find_model, load_model

    return load_model(find_model(name), device=device, dtype=dtype)


def _genes(value: str | None) -> list[str] | str | None:
    """Return `--genes` as the library takes it: a file of names becomes a list."""
    if value is None or not Path(value).is_file():
        return value
    return text_lines(Path(value))


def _read_sentences(path: Path) -> tuple[list[str], list[str]]:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})"
            ) from error
        if "cell_sentence" not in table.column_names:
            raise InputError(
                f"{path}: has no column 'cell_sentence'; it has: {', '.join(table.column_names)}"
            )
        texts = [text or "" for text in table["cell_sentence"].to_pylist()]
        ids = (
            table["cell_id"].to_pylist()
            if "cell_id" in table.column_names
            else [str(i) for i in range(len(texts))]
        )
        return ids, texts
    try:
        texts = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    if not texts:
        raise InputError(f"{path}: holds no sentences; one a line is expected")
    return [str(i) for i in range(len(texts))], texts


def _check_out(path: Path, suffix: str) -> None:
    """Refuse, before the work starts, a place that cannot be written."""
    if path.suffix != suffix:
        raise UsageError(f"--out {path}: must end in {suffix}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist")


def _write(adata: AnnData, path: Path) -> None:
    from c2s.common.files import atomic_file

    _check_out(path, ".h5ad")
    with atomic_file(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def _say(as_json: bool, facts: dict[str, Any], text: str) -> None:
    print(json.dumps(facts) if as_json else text)


def _add_groups() -> None:
    """Add the commands that have commands of their own."""
    from c2s.cli.corpus import app as corpus
    from c2s.cli.evaluate import compare, evaluate
    from c2s.cli.study import app as study

    app.command()(evaluate)
    app.command()(compare)
    app.add_typer(corpus, name="corpus")
    app.add_typer(study, name="study")


_add_groups()


def main() -> None:
    """Run the command; a failure that a user can cause is one line on standard error and an exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    debug = "--debug" in sys.argv
    warnings.showwarning = _show_warning
    if not debug:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", C2SWarning)
    try:
        # Typer gives back the code of what it ended itself, an interrupt among it, instead of raising.
        code = app(standalone_mode=False)
        if isinstance(code, int) and code:
            _fail("stopped", code, debug) if code == 130 else sys.exit(code)
    except C2SError as error:
        _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("stopped", 130, debug)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        _fail("stopped", 130, debug)
    except BrokenPipeError:
        # The reader of a pipe left (`c2s sentences … | head`): nothing is wrong, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail("no space left on the disk; nothing was half-written", 1, debug)
        raise
    except Exception as error:
        _click_error(error, debug)


def _click_error(error: Exception, debug: bool) -> None:
    """Report wrong use in the words of typer, and raise anything else."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(2)  # the bare command has shown its help
    show = getattr(error, "format_message", None)
    if show is None:
        raise error
    _fail(f"{show()} (see --help)", 2, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"c2s: {message}", file=sys.stderr)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, C2SWarning):
        print(f"c2s: warning: {message}", file=sys.stderr)
    else:
        print(f"{category.__name__}: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
