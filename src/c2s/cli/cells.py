"""Looking at data, and cells to sentences and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from c2s.cli.files import check_out, say, write_h5ad
from c2s.cli.options import (
    AsJson,
    Debug,
    Genes,
    Input,
    Layer,
    ModelName,
    OptionalOut,
    Out,
    Seed,
    genes_option,
    open_model,
)
from c2s.common.errors import InputError, counted


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
        genes=genes_option(genes),
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
        say(
            as_json,
            {"cells": len(cells), "out": str(out)},
            f"{counted(len(cells), 'sentence')} in {out}",
        )
    elif out is not None:
        from c2s.common.files import atomic_file

        with atomic_file(out) as path, path.open("w", encoding="utf-8") as handle:
            handle.writelines(f"{text}\n" for text in texts.to_pylist())
        say(
            as_json,
            {"cells": len(cells), "out": str(out)},
            f"{counted(len(cells), 'sentence')} in {out}",
        )
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

    check_out(out, ".h5ad")
    ids, texts = _read_sentences(source)
    line = (
        fit_inverse(read(like), seed=seed)
        if like is not None
        else open_model(model, "cpu", None).inverse
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
    write_h5ad(adata, out)
    invalid = int(parsed.n_invalid.sum())
    say(
        as_json,
        {"cells": adata.n_obs, "invalid_words": invalid, "out": str(out)},
        f"{counted(adata.n_obs, 'cell')} in {out}; {invalid:,} words were no genes",
    )


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
