"""Training on several processes of one machine, started by accelerate from a configuration of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml

from c2s.common.errors import InputError, UsageError

_CONFIGS = Path(__file__).parent / "launch_configs"


def configurations() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted(p.stem for p in _CONFIGS.glob("*.yaml"))


def configuration(name: str) -> Path:
    """Return the file of a configuration: one that comes with the package, or any of accelerate's.

    Raises
    ------
    InputError
        There is none.
    """
    known = _CONFIGS / f"{name}.yaml"
    path = known if known.is_file() else Path(name)
    if not path.is_file():
        raise InputError(
            f"--launch {name}: neither a file nor one of {', '.join(configurations())}"
        )
    return path


def launch(name: str, command: Sequence[str]) -> int:
    """Run a command of `c2s` on as many processes as a configuration says, and wait for them.

    Parameters
    ----------
    name
        See `configuration`. Where it leaves the number of processes open (−1), there is one for each GPU.
    command
        Command and arguments, without `c2s`.

    Returns
    -------
    int
        0, or the exit code of the first process that failed; it has said why.

    Raises
    ------
    InputError, UsageError
        The configuration cannot be used here.
    """
    from accelerate.commands.launch import (
        launch_command,
        launch_command_parser,
    )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    path = configuration(name)
    options = _options(path)
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), *options, "-m", "c2s.cli.main", *command]
    )
    # What its processes fail of, they say themselves; here it would follow as a traceback of the launcher.
    for quiet in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(quiet).setLevel(logging.CRITICAL)
    try:
        launch_command(arguments)
    except ChildFailedError as failed:
        return abs(failed.get_first_failure()[1].exitcode) or 1
    except (SignalException, KeyboardInterrupt):
        return 130
    return 0


def _options(path: Path) -> list[str]:
    """Return what a configuration leaves open.

    Raises
    ------
    InputError, UsageError
        It is not one of accelerate's, is for several machines, or there is no GPU to count.
    """
    import torch

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        machines, processes = content.get("num_machines", 1), content["num_processes"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: is not a configuration of accelerate") from error
    if machines != 1:
        raise UsageError(
            f"{path}: is for several machines; start it on each of them with accelerate launch"
        )
    options = ["--main_process_port", str(content.get("main_process_port", 0))]
    if processes == -1:
        processes = torch.cuda.device_count()
        if not processes:
            raise UsageError(f"{path}: there is no GPU here; try --launch ddp-cpu-2")
        options += ["--num_processes", str(processes)]
    return options
