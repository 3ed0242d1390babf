"""The command `c2s`. Every command is thin: it reads, calls the library, writes; libraries load when used."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.options import AsJson, Debug, Device, Seed
from c2s.common.errors import C2SError, C2SWarning

app = typer.Typer(
    name="c2s",
    help="Cell sentences and language models for single-cell RNA sequencing. Start with: c2s demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def _add_commands() -> None:
    """Add the commands that stand in files of their own, in the order in which help lists them."""
    from c2s.cli.annotate import annotate
    from c2s.cli.calibrate import calibrate
    from c2s.cli.cells import expression, inspect, sentences
    from c2s.cli.corpus import app as corpus
    from c2s.cli.embed import embed
    from c2s.cli.evaluate import compare, evaluate
    from c2s.cli.explain import explain
    from c2s.cli.generate import generate
    from c2s.cli.geneset import app as geneset
    from c2s.cli.model import app as model
    from c2s.cli.scaling import scaling
    from c2s.cli.study import app as study
    from c2s.cli.train import train

    for command in (
        inspect,
        sentences,
        expression,
        train,
        annotate,
        explain,
        calibrate,
        embed,
        generate,
        evaluate,
        compare,
        scaling,
    ):
        app.command()(command)
    app.add_typer(corpus, name="corpus")
    app.add_typer(geneset, name="geneset")
    app.add_typer(study, name="study")
    app.add_typer(model, name="model")


_add_commands()


def main() -> None:
    """Run the command; a failure that a user can cause is one line on standard error and an exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    debug = "--debug" in sys.argv
    warnings.showwarning = _show_warning
    if not debug:
        warnings.simplefilter("ignore")
        if _is_first():
            warnings.simplefilter("always", C2SWarning)
    try:
        # Typer gives back the code of what it ended itself, an interrupt among it, instead of raising.
        code = app(standalone_mode=False)
        if isinstance(code, int) and code:
            _fail("stopped", code, debug) if code == 130 else sys.exit(code)
    except C2SError as error:
        _fail(_worded(str(error)), error.exit_code, debug)
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
        _let_the_first_speak()
        _click_error(error, debug)


def _worded(message: str) -> str:
    """Return a message of the library in the words of the command that is being run."""
    from c2s.cli.wording import as_options, options_of

    return as_options(message, options_of(typer.main.get_command(app), sys.argv[1:]))


def _click_error(error: Exception, debug: bool) -> None:
    """Report wrong use in the words of typer, and raise anything else."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(2)  # the bare command has shown its help
    show = getattr(error, "format_message", None)
    if show is None:
        raise error
    _fail(f"{show()} (see --help)", 2, debug)


def _is_first() -> bool:
    """Return whether this is not another process of a run on several."""
    return os.environ.get("RANK", "0") == "0"


def _let_the_first_speak() -> None:
    """Wait in another process of a run: where all fail alike, the first says why, and the launcher ends the others."""
    if not _is_first():
        time.sleep(20)  # on a busy machine it may be that late


def _fail(message: str, code: int, debug: bool) -> None:
    if code == 130 and not _is_first():
        sys.exit(code)
    _let_the_first_speak()
    if debug:
        import traceback

        traceback.print_exc()
    print(f"c2s: {message}", file=sys.stderr)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, C2SWarning):
        print(f"c2s: warning: {_worded(str(message))}", file=sys.stderr)
    else:
        print(f"{category.__name__}: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
