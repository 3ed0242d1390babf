"""`c2s geneset`: a name for genes, and genes for a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.files import say, text_lines
from c2s.cli.options import AsJson, Debug, Device, Dtype, ModelName, Seed, is_file, open_model
from c2s.common.errors import C2SError, UsageError, warn

app = typer.Typer(help="Name gene sets, and list the genes of one.", no_args_is_help=True)

Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", help="Of sampling; 0 takes the most probable token each time.", min=0.0
    ),
]


@app.command()
def name(
    genes: Annotated[
        list[str],
        typer.Argument(
            help="Symbols, apart or as A,B,C; or a file, .gmt with several sets or one gene a line.",
            show_default=False,
        ),
    ],
    names: Annotated[
        Path | None,
        typer.Option(
            "--names",
            help="File with one name a line to choose from; by default any text is written.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Where a text is cut off.", min=2)
    ] = 64,
    temperature: Temperature = 0.0,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name gene sets: in the model's own words, or the most probable of given names."""
    from c2s.analysis.gene_sets import name_gene_set

    sets = _sets(genes)
    choice = None if names is None else text_lines(names)
    asked = open_model(model, device, dtype)
    facts: list[dict[str, Any]] = []
    failed: list[tuple[str, C2SError]] = []
    for title, symbols in sets:
        try:
            found = name_gene_set(
                symbols, asked, choice, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
        except C2SError as error:
            failed.append((title, error))
            continue
        fact: dict[str, Any] = {
            "set": title, "name": found.name, "probability": found.probability, "ended": found.ended,
        }  # fmt: skip
        if found.probabilities is not None:
            fact["probabilities"] = found.probabilities.to_dict()
        facts.append(fact)
    if not facts:
        raise failed[0][1]
    for title, reason in failed:
        warn(f"{title}: {reason}; the set is left out")
    lines = [
        (f"{fact['set']}\t" if fact["set"] else "") + f"{fact['name']}\t{fact['probability']:.3g}"
        for fact in facts
    ]
    say(as_json, {"sets": facts}, "\n".join(lines))


@app.command()
def enumerate(
    title: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the gene set.", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", "--n", help="Genes that are asked for.", min=1)] = 50,
    own_end: Annotated[
        bool,
        typer.Option("--own-end", help="As many genes as the model finds right, at most -n."),
    ] = False,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            help="File with one gene a line: only these may be listed.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    temperature: Temperature = 0.0,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the genes of a gene set: genes that the model knows, none twice, one a line."""
    from c2s.analysis.gene_sets import enumerate_gene_set

    panel = None if genes is None else text_lines(genes)
    found = enumerate_gene_set(
        title, open_model(model, device, dtype), n, own_end=own_end, genes=panel,
        temperature=temperature, seed=seed,
    )  # fmt: skip
    say(as_json, {"name": title, "genes": found}, "\n".join(found))


def _sets(genes: list[str]) -> list[tuple[str, list[str]]]:
    """Return the gene sets that the arguments are, each behind its title; one that has none has an empty one."""
    from c2s.knowledge.gene_sets import read_gmt

    if len(genes) == 1 and _names_a_file(genes[0]):
        path = Path(genes[0])
        if path.suffix == ".gmt":
            return [(each.title, list(each.genes)) for each in read_gmt(path, skip_bad=True)]
        return [("", text_lines(path))]
    symbols = [symbol for word in genes for symbol in word.split(",") if symbol.strip()]
    if not symbols:
        raise UsageError("no gene is named; give symbols, apart or as A,B,C, or a file")
    return [("", symbols)]


def _names_a_file(word: str) -> bool:
    """Return whether a word is a file, or looks like one rather than like genes."""
    return is_file(word) or ("," not in word and bool(Path(word).suffix))
