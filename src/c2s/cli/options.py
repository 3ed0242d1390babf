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
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Of a released checkpoint: its family, where its name and model card do not tell.",
        show_default=False,
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        help="Of a released checkpoint: a folder with its wording; else that of your cell2sentence package.",
        show_default=False,
    ),
]
Organism = Annotated[
    str | None,
    typer.Option(
        "--organism",
        help="As 'Homo sapiens'; by default obs['organism'], or the only one that the model knows.",
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

ChunkSize = Annotated[
    int | None,
    typer.Option(
        "--chunk-size",
        help="Cells that are read and asked at a time, and finished when a run is broken off; by default 4096.",
        min=1,
        show_default=False,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        help="Instead of --device: auto spreads a large model over all GPUs, then memory.",
        show_default=False,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option("--quantize", help="4bit: weights in 4 bits (extra quant).", show_default=False),
]


def open_model(
    name: str | None,
    device: str | None,
    dtype: str | None,
    device_map: str | None = None,
    quantize: str | None = None,
    profile: str | None = None,
    prompts: str | None = None,
    engine: str = "transformers",
) -> Model:
    """Return the model that `--model` names, by default the demo's; vLLM reads its weights itself."""
    from c2s.models.directory import find_model, load_model

    given = {"--device": device, "--device-map": device_map, "--quantize": quantize}
    if engine == "vllm":
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} is for the transformers engine; vllm takes what it was built for"
                )
    return load_model(
        find_model(name), profile=profile, prompts=prompts, device=device, dtype=dtype, device_map=device_map,
        quantize=quantize, weights=engine != "vllm",
    )  # fmt: skip


def gene_names(path: Path) -> list[str]:
    """Return the genes of a file with one name a line, or of an .h5ad file."""
    if path.suffix != ".h5ad":
        return text_lines(path)
    from c2s.cells.readers import is_current_h5ad, read, read_tables
    from c2s.cells.vocabulary import GeneVocabulary

    # The matrix stays on the disk, since it may be larger than the memory.
    adata = read_tables(path)[0] if is_current_h5ad(path) else read(path)
    return list(GeneVocabulary.from_var(adata.var).symbols)


def genes_option(value: str | None) -> list[str] | str | None:
    """Return `--genes` as the library takes it: a file of names becomes a list."""
    if value is None or not is_file(value):
        return value
    return text_lines(Path(value))


def gene_list(value: str | None) -> list[str] | None:
    """Return genes that are given as a file with one a line, or as `A,B,C`."""
    if value is None:
        return None
    if is_file(value):
        return text_lines(Path(value))
    return [gene.strip() for gene in value.split(",") if gene.strip()]


def is_file(text: str) -> bool:
    """Return whether a text names a file that is there."""
    try:
        return Path(text).is_file()
    except OSError:  # more genes than a name of a file may have letters
        return False
