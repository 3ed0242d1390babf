"""What tests of training runs share."""

import multiprocessing
import re
import socket
import time
import warnings
from dataclasses import dataclass

import pytest

#: What a process of a run does: `c2s`, with what it says in a file.
COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
with open(errors, "w") as handle:
    os.dup2(handle.fileno(), 1)
    os.dup2(handle.fileno(), 2)
os.environ.update(environment)
sys.argv = ["c2s", *arguments]
from c2s.cli.main import main
main()
"""


@dataclass
class Run:
    """A started command."""

    processes: list
    errors: list

    def said(self):
        """What each has said."""
        return [e.read_text() if e.is_file() else "" for e in self.errors]

    def join(self, limit=240):
        """Wait until all are gone; return exit codes and what they said."""
        until = time.monotonic() + limit
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            assert process.exitcode is not None, "does not end"
        return [p.exitcode for p in self.processes], self.said()

    def kill(self):
        """End all at once, without a last word."""
        for process in self.processes:
            process.kill()
        self.join()

    def kill_when(self, seen, *, training=True, limit=240):
        """Kill as soon as something is seen, or fail."""
        until = time.monotonic() + limit
        # What an earlier run left is gone when training begins.
        begun = re.compile("Training|Aligning" if training else "")
        while not (begun.search(self.said()[0]) and seen()):
            assert time.monotonic() < until, "was not seen"
            assert any(p.exitcode is None for p in self.processes), self.said()
            time.sleep(0.001)
        self.kill()

    def finish(self):
        """Wait for the end, which must be a good one."""
        codes, said = self.join()
        assert set(codes) == {0}, said
        return said


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory, cut):
    """A folder with `cut.h5ad` and the corpus of one task, cell types, that was built of it. Not to be changed."""
    from c2s.common.progress import no_progress
    from c2s.corpus.build import build_from
    from c2s.corpus.recipe import CorpusRecipe

    folder = tmp_path_factory.mktemp("recipes")
    cut.write_h5ad(folder / "cut.h5ad")
    recipe = CorpusRecipe.parse(
        {
            "sources": [{"data": "cut.h5ad"}], "tasks": {"cell_type": {}}, "single_genes": [20, 30],
            "tokens": "genes", "context": 128, "samples_per_cell": 1, "quality": {"min_cells": 10},
        },
        "corpus",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build_from(recipe, folder, folder / "corpus", workers=1, on_stage=no_progress)
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return a function that starts `c2s` on some processes.

    They come from a fork server that has the libraries loaded: seconds less each than a fresh interpreter.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["c2s.training.run", "c2s.training.grpo.trainer", "c2s.cli.main", "c2s.cli.train"]
    )
    folder = tmp_path_factory.mktemp("said")
    count = 0

    def start(*arguments, world=1, **environment):
        nonlocal count
        ranks = [{}]
        if world > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            shared = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks = [{**shared, "RANK": r, "LOCAL_RANK": r} for r in range(world)]
        started, errors = [], []
        for own in ranks:
            errors.append(folder / f"{count}.txt")
            count += 1
            every = {**{k: str(v) for k, v in own.items()}, "OMP_NUM_THREADS": "1", **environment}
            given = {
                "arguments": [str(a) for a in arguments],
                "environment": every,
                "errors": errors[-1],
            }
            process = context.Process(target=exec, args=(COMMAND, given))
            process.start()
            started.append(process)
        return Run(started, errors)

    return start


@pytest.fixture(scope="session")
def environment():
    """Return a function that gives what accelerate's launcher tells processes of a configuration."""
    from c2s.training.launch import configuration

    def told(config, *options):
        from accelerate.commands import launch as accelerate_launch
        from accelerate.utils.launch import prepare_multi_gpu_env

        parser = accelerate_launch.launch_command_parser()
        arguments = parser.parse_args(
            ["--config_file", str(configuration(config)), "--num_processes", "2", "--main_process_port", "0",
             *options, "x.py"]
        )  # fmt: skip
        arguments, _, _ = accelerate_launch._validate_launch_command(arguments)
        every = prepare_multi_gpu_env(arguments)
        return {k: v for k, v in every.items() if k.startswith(("ACCELERATE", "FSDP"))}

    return told
