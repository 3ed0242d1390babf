"""What the documentation shows is true: notebooks run, examples say what comes, commands exist."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("guide/*.md")])

#: Seconds that one cell of a notebook may take on a slow machine.
CELL_LIMIT = 900

tutorials = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder where neither a model of whoever runs the tests nor the network can help."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("C2S_MODEL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    # Notebooks run commands: those of the environment that runs the tests.
    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", os.pathsep.join([str(here), os.environ["PATH"]]))
    return tmp_path


# --- notebooks --------------------------------------------------------------------------------


def test_there_is_a_tutorial() -> None:
    assert NOTEBOOKS, f"{DOCS / 'tutorials'} holds no notebook"


@tutorials
def test_tutorial_is_saved_with_the_outputs_of_one_run(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


@tutorials
def test_tutorial_is_the_one_that_the_script_writes(path: Path) -> None:
    script = DOCS.parent / "scripts" / "tutorials" / f"{path.stem}.py"
    written = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert written == [source for _, source in runpy.run_path(str(script))["CELLS"]]


@pytest.mark.slow
@tutorials
def test_tutorial_runs(path: Path, alone: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=CELL_LIMIT, resources={"metadata": {"path": str(alone)}}
    ).execute()


# --- examples ---------------------------------------------------------------------------------


def blocks(path: Path, language: str) -> list[str]:
    # In a tab a block is indented.
    found = re.finditer(
        rf"^( *)```{language}\n(.*?)^\1```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(block[2]) for block in found]


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for `demo/model` in the examples: the demo's model with its random weights."""
    from c2s.datasets import pancreas
    from c2s.studies.demo import demo_recipe
    from c2s.studies.train import build_model, prepare

    recipe = demo_recipe()
    model = build_model(prepare(pancreas(), recipe), recipe, "pancreas")
    folder = tmp_path_factory.mktemp("demo") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def pancreas_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for `corpus` in the examples: the corpus of the recipe that the pages show."""
    from c2s.corpus.build import build_corpus

    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    recipe = DOCS.parent / "recipes" / "corpus" / "pancreas.yaml"
    build_corpus(recipe, folder, workers=1, on_stage=lambda name, total: lambda n: None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in PAGES if blocks(p, "python")], ids=lambda path: path.stem
)
def test_examples_give_what_they_say(
    path: Path, alone: Path, demo_model: Path, pancreas_corpus: Path
) -> None:
    (alone / "demo").mkdir()
    (alone / "demo" / "model").symlink_to(demo_model)
    (alone / "corpus").symlink_to(pancreas_corpus)
    names: dict[str, object] = {}
    for block in blocks(path, "python"):
        for statement, said in statements(block):
            if said is None:
                exec(compile(statement, str(path), "exec"), names)
            else:
                value = eval(compile(statement, str(path), "eval"), names)
                assert plain(value) == said, f"{statement}: the page says {said!r}"


def statements(block: str) -> Iterator[tuple[str, object]]:
    """Yield each statement with the value that the comment behind it states, None if none."""
    lines = block.splitlines()
    for node in ast.parse(block).body:
        source = ast.get_source_segment(block, node)
        assert source is not None
        assert node.end_lineno is not None
        # Offsets of the parser count bytes.
        behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        yield source, stated(behind.strip(" #")) if isinstance(node, ast.Expr) else None


def stated(comment: str) -> object:
    """Return the literal that a comment begins with, up to a semicolon; None if it is none."""
    try:
        return rounded(ast.literal_eval(comment.split(";")[0]))
    except (SyntaxError, ValueError):
        return None


def rounded(value: object) -> object:
    """Return floats with a tolerance, so that 0.88 stands for 0.8837."""
    if isinstance(value, tuple):
        return tuple(rounded(v) for v in value)
    return pytest.approx(value, abs=0.006) if isinstance(value, float) else value


def plain(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


# --- recipes and tasks ------------------------------------------------------------------------


def test_recipe_that_the_corpus_page_shows_is_read() -> None:
    """Each block is a recipe, or the part of one that the text is about."""
    import yaml

    from c2s.corpus.recipe import CorpusRecipe

    found = blocks(DOCS / "guide" / "corpus.md", "yaml")
    written = [yaml.safe_load(block) for block in found if not block.startswith("--8<--")]
    assert len(written) >= 3
    for part in written:
        CorpusRecipe.model_validate({"sources": [{"data": "pancreas"}]} | part)


def test_every_task_has_an_example() -> None:
    from c2s.tasks.registry import TASKS

    page = (DOCS / "guide" / "tasks.md").read_text("utf-8")
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == list(TASKS)
    assert len(blocks(DOCS / "guide" / "tasks.md", "text")) == len(TASKS)


# --- commands ---------------------------------------------------------------------------------


def shown_commands() -> list[list[str]]:
    lines = [
        line.removeprefix("$ ")
        for path in [*PAGES, DOCS.parent / "README.md"]
        if path.exists()
        for language in ("console", "bash", "sh")
        for block in blocks(path, language)
        for line in block.splitlines()
    ]
    # A variable of a script stands for a number here.
    commands = [re.sub(r"\$\w+", "1", line) for line in lines if line.startswith("c2s ")]
    return [shlex.split(line, comments=True)[1:] for line in commands]


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_command_that_a_page_shows_exists(words: list[str]) -> None:
    """Parsing refuses an unknown command or option and a missing argument; nothing is run."""
    from typer.main import get_command

    from c2s.cli.main import app

    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words:
        command.make_context("c2s", list(words))
