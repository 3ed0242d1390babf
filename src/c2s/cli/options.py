"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from c2s.cli.files import text_lines
from c2s.common.errors import UsageError

if TYPE_CHECKING:
    from c2s.models.directory import Model

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides every random draw.", min=0)]
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
EngineOption = Annotated[
    Literal["transformers", "vllm"],
    typer.Option("--engine", help="What runs the model; vllm needs the extra of that name."),
]


def open_model(
    name: str | None, device: str | None, dtype: str | None, engine: str = "transformers"
) -> Model:
    """Return the model that `--model` names, by default the demo's; vLLM reads its weights itself."""
    from c2s.models.directory import find_model, load_model

    if engine != "vllm":
        return load_model(find_model(name), device=device, dtype=dtype)
    if device is not None:
        raise UsageError(
            "--device is for the transformers engine; vllm takes what it was built for"
        )
    return load_model(find_model(name), dtype=dtype, weights=False)


def genes_option(value: str | None) -> list[str] | str | None:
    """Return `--genes` as the library takes it: a file of names becomes a list."""
    if value is None or not Path(value).is_file():
        return value
    return text_lines(Path(value))
