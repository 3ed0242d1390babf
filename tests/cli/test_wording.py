"""Messages at the terminal name options; exit codes are the same for the same kind of failure in every command."""

from __future__ import annotations

import pytest
import typer

from c2s.cli.main import app
from c2s.cli.wording import as_options, options_of
from c2s.common.errors import counted

OPTIONS = {"top_k": "--top-k", "labels": "--candidate", "n": "--n", "own_end": "--own-end", "prompts": "--prompts"}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("top_k=0 is not possible", "--top-k 0 is not possible"),
        ("n=-3, too few", "--n -3, too few"),
        ("n=nan is not possible", "--n nan is not possible"),
        ("add it to labels=[…]", "add it to --candidate"),
        ("fewer genes (top_k=…)", "fewer genes (--top-k)"),
        ("labels='x y' is unknown", "--candidate 'x y' is unknown"),
        ("wording: prompts=FOLDER", "wording: --prompts FOLDER"),
        ("own_end=True needs it; own_end=False not", "--own-end needs it; own_end=False not"),
        ("give gene_names=… or top_k=…", "give gene_names=… or --top-k"),
        # Not arguments: names of files, what is quoted, words.
        ("n=5.h5ad: not there", "n=5.h5ad: not there"),
        ("n=5/n=6: no model directory there", "n=5/n=6: no model directory there"),
        ("the model's request 'make n=5 cells' and \"n=5 \"", "the model's request 'make n=5 cells' and \"n=5 \""),
        ("the model has no labels", "the model has no labels"),
    ],
)  # fmt: skip
def test_arguments_become_options(message, said):
    assert as_options(message, OPTIONS) == said


def test_options_are_those_of_the_command_that_runs():
    program = typer.main.get_command(app)
    explain = options_of(program, ["explain", "cells.h5ad", "--label", "generate"])
    assert (explain["labels"], explain["n_genes"], explain["n_cells"]) == (
        "--candidate",
        "--deletion-test",
        "--cells",
    )
    assert options_of(program, ["geneset", "enumerate", "x"])["own_end"] == "--own-end"
    assert "version" in options_of(program, ["--nothing"])


def test_one_is_singular():
    assert [counted(n, "cell") for n in (0, 1, 1204)] == ["0 cells", "1 cell", "1,204 cells"]


def commands(command=None, path=()):
    """Yield the words of every command."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path)
    for name, each in (inner or {}).items():
        yield from commands(each, (*path, name))


ABSENT = "absent.h5ad"
#: How each command is told of a file that is not there.
WITHOUT_A_FILE = {
    "inspect": (ABSENT,),
    "sentences": (ABSENT,),
    "expression": ("absent.parquet", "--like", ABSENT, "-o", "o.h5ad"),
    "train": ("absent.yaml", "-o", "o"),
    "annotate": (ABSENT, "-o", "o.h5ad"),
    "explain": (ABSENT, "-o", "o.csv"),
    "calibrate": (ABSENT, "--model", "./absent"),
    "embed": (ABSENT, "-o", "o.h5ad"),
    "generate": ("--model", "./absent"),
    "evaluate": (ABSENT, "absent2.h5ad", "--by", "x", "-o", "o"),
    "compare": ("absent", "absent2"),
    "corpus build": ("absent.yaml", "-o", "o"),
    "corpus verify": ("absent",),
    "corpus stats": ("absent",),
    "corpus sample": ("absent",),
    "geneset name": ("absent.gmt",),
    "geneset enumerate": ("x", "--model", "./absent"),
    "model import": ("absent.gguf", "-o", "o"),
    "model merge": ("./absent", "-o", "o"),
    "scaling": ("absent.yaml", "-o", "o"),
    "study run": ("absent.yaml", "-o", "o"),
    "study show": None,  # of packaged ones only
    "study list": None,
    "demo": None,
}


def test_every_command_is_here():
    assert set(commands()) == set(WITHOUT_A_FILE)


@pytest.mark.parametrize(
    "command", [name for name, arguments in WITHOUT_A_FILE.items() if arguments]
)
def test_what_is_not_there_is_1(c2s, command):
    code, out, err = c2s(*command.split(), *WITHOUT_A_FILE[command])
    assert (code, out) == (1, ""), err
    assert len(err.splitlines()) == 1
    assert "absent" in err


@pytest.mark.parametrize("command", list(commands()))
def test_wrong_use_is_2(c2s, command):
    code, out, err = c2s(*command.split(), "--no-such-option")
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
