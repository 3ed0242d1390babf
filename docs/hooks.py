"""What the documentation takes from the project itself, so that it cannot fall behind.

- `docs/tutorials/*.ipynb` become pages, with the outputs they were saved with (nothing is run).
- `reference/cli.md` is written from the commands of `c2s`.
- `{{ fields module.Class }}` in a page becomes a table of the fields of a configuration.
- `{{ rewards }}` becomes tables of all rewards of alignment and of their fields.

Notebooks are turned into Markdown here, because the usual converters bring scripts from content
delivery networks into the page, and these pages are read without a network.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_FIELDS = re.compile(r"^\{\{ fields ([\w.]+)\.(\w+) \}\}$", re.MULTILINE)
_REWARDS = re.compile(r"^\{\{ rewards \}\}$", re.MULTILINE)
#: Where a stranger begins; the others follow by name.
_FIRST_TUTORIAL = "first_steps"
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the tutorials in the navigation."""
    names = [f"tutorials/{path.stem}.md" for path in _notebooks(config)]
    config.nav = [
        {"Tutorials": names} if "Tutorials" in entry else entry
        for entry in config.nav or []
        if "Tutorials" not in entry or names
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from notebooks and from the command line."""
    for path in _notebooks(config):
        page = f"tutorials/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(path)))
    files.append(File.generated(config, "reference/cli.md", content=command_line_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the tables of fields."""
    del page, config, files
    markdown = _FIELDS.sub(lambda found: fields_table(found[1], found[2]), markdown)
    return _REWARDS.sub(lambda _: rewards_tables(), markdown)


def _notebooks(config: MkDocsConfig) -> list[Path]:
    found = Path(config.docs_dir, "tutorials").glob("*.ipynb")
    return sorted(found, key=lambda path: (path.stem != _FIRST_TUTORIAL, path.stem))


# --- notebooks --------------------------------------------------------------------------------


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: text as it is, code and its outputs in blocks."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code" and cell.source.strip():
            parts.append(_fenced(cell.source, "python"))
            parts += [_output(output) for output in cell.outputs]
    download = f"[Download this notebook]({path.name}){{ .md-button }}"
    return "\n\n".join([*filter(None, parts), download]) + "\n"


def _output(output: Any) -> str:
    """Return one output of a cell in the richest form that a static page can show."""
    if output.output_type == "stream":
        return _fenced(output.text, "text")
    if output.output_type == "error":
        return _fenced("\n".join(output.traceback), "text")
    data = output.data
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="figure" src="data:{kind};base64,{data[kind].strip()}">'
    for kind in ("image/svg+xml", "text/html"):
        if kind in data:
            return f'<div class="output">{_without_blank_lines(data[kind])}</div>'
    return _fenced(data.get("text/plain", ""), "text")


def _without_blank_lines(markup: str) -> str:
    # A blank line would end the block of HTML in Markdown.
    return "\n".join(line for line in markup.splitlines() if line.strip())


def _fenced(text: str, language: str) -> str:
    text = _TERMINAL_COLOUR.sub("", text).rstrip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}" if text else ""


# --- the command line -------------------------------------------------------------------------


def command_line_page() -> str:
    """Return a page with what `c2s --help` and `c2s COMMAND --help` say."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from c2s.cli.main import app

    app.rich_markup_mode = None  # plain text, without boxes and colours

    def shown(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="c2s", env={"COLUMNS": "92"})
        if result.exit_code:
            raise RuntimeError(f"c2s {' '.join(words)} --help failed: {result.output}")
        return _fenced(result.output.strip("\n"), "text")

    parts = ["# Command line", "What `c2s --help` says, and each command's own help.", shown()]
    for words in _commands(get_command(app)):
        parts += [f"## c2s {' '.join(words)}", shown(*words)]
    return "\n\n".join(parts) + "\n"


def _commands(group: Any) -> list[list[str]]:
    """Return what is typed behind `c2s` for each command of a group and of the groups below it."""
    found = []
    for name, command in group.commands.items():
        below = _commands(command) if hasattr(command, "commands") else [[]]
        found += [] if command.hidden else [[name, *words] for words in below]
    return found


# --- configurations ---------------------------------------------------------------------------


def fields_table(module: str, name: str) -> str:
    """Return the fields of a pydantic model as a table, from their descriptions."""
    model = getattr(importlib.import_module(module), name)
    return _table_of_fields(model.model_fields)


def rewards_tables() -> str:
    """Return a table of all rewards of alignment, and one of their fields, from their recipes."""
    from c2s.training.rewards.registry import REWARDS

    rows, fields = [], {}
    for name, recipe in REWARDS.items():
        own = {k: v for k, v in recipe.model_fields.items() if k not in ("name", "weight")}
        fields |= own
        what = _cell((recipe.__doc__ or "").partition("\n\n")[0])
        rows.append(f"| `{name}` | {what} | {recipe.reads} | {', '.join(f'`{k}`' for k in own)} |")
    head = ["| reward | what it is | of | fields |", "| --- | --- | --- | --- |"]
    weight = {"weight": next(iter(REWARDS.values())).model_fields["weight"]}
    return "\n".join([*head, *rows]) + "\n\n" + _table_of_fields(weight | fields)


def _table_of_fields(fields: Mapping[str, FieldInfo]) -> str:
    rows = []
    for field, info in fields.items():
        default = "required" if info.is_required() else _default(info)
        rows.append(f"| `{field}` | {_cell(info.description or '')} | {_cell(default)} |")
    return "\n".join(["| field | meaning | default |", "| --- | --- | --- |", *rows])


def _default(info: FieldInfo) -> str:
    """Return a default as it is written in a recipe."""
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own defaults"
    written = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000, allow_unicode=True)
    written = written.removesuffix("\n").removesuffix("\n...")
    return f"`{written}`" if len(written) <= 60 else "as described"


def _plain(value: Any) -> Any:
    """Return a default with tuples as lists, which is what they are in a recipe."""
    return list(value) if isinstance(value, tuple) else value


def _cell(text: str) -> str:
    """Return text that fits into one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
