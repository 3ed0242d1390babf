"""Write and run the notebooks of `docs/tutorials` from the cells in `scripts/tutorials`.

    python scripts/build_tutorial.py            # all
    python scripts/build_tutorial.py corpus     # docs/tutorials/corpus.ipynb from scripts/tutorials/corpus.py

A notebook is kept with its output, so that the documentation shows it without running anything; CI runs it again
(tests/test_tutorials.py).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SOURCES = Path(__file__).resolve().parent / "tutorials"
OUT = Path(__file__).resolve().parents[1] / "docs" / "tutorials"


def build(name: str) -> None:
    """Write and run one notebook."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    make = {"md": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = importlib.import_module(f"tutorials.{name}").CELLS
    notebook.cells = [make[kind](source) for kind, source in cells]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"TMPDIR": scratch, "HF_HOME": str(Path(scratch, "hf"))}
        resources = {"metadata": {"path": scratch}}
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources=resources,
            coalesce_streams=True,
        ).execute()
        for cell in notebook.cells:
            cell.get("metadata", {}).pop("execution", None)
            if cell.cell_type == "code":
                # What libraries say on standard error names paths of the machine it ran on.
                shown = [o for o in cell.outputs if o.get("name") != "stderr"]
                cell.outputs = [_cleaned(output, scratch) for output in shown]
    OUT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUT / f"{name}.ipynb")


def _cleaned(output: nbformat.NotebookNode, scratch: str) -> nbformat.NotebookNode:
    """Return printed text without the temporary folder in its paths and without colours."""
    if output.output_type == "stream":
        text = re.sub(re.escape(scratch) + r"/[^/\s]+/", "", output.text)
        output.text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return output


def main(names: list[str]) -> None:
    """Build the named notebooks, or all."""
    # Commands in cells are those of the environment that runs this.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in names or sorted(path.stem for path in SOURCES.glob("*.py")):
        build(name)


if __name__ == "__main__":
    main(sys.argv[1:])
