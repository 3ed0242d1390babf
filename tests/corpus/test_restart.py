"""`kill -9` at any moment and the same command again: the same bytes, and nothing that was finished is done twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from tests.corpus.conftest import quiet

from c2s.corpus.build import build_corpus

GENE_SETS = Path(__file__).parents[2] / "recipes" / "corpus" / "pancreas_gene_sets.gmt"
RECIPE = {
    "sources": [{"data": "pancreas", "values": {"study": "Baron 2016"}}],
    "gene_sets": [str(GENE_SETS)],
    "tokens": "genes",
    "samples_per_cell": 20,
    "unit_cells": 64,
}
N_UNITS = 32

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    """The corpus, built in one go by one process. Not to be changed."""
    out = tmp_path_factory.mktemp("built") / "corpus"
    build_corpus(recipe, out, workers=1, on_stage=quiet)
    assert len(records(out)) == N_UNITS
    return out


def start(recipe, out):
    """Start a build by two workers in a session of its own."""
    arguments = ["corpus", "build", str(recipe), "--out", str(out), "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "c2s.cli.main", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(build):
    """Kill the main process alone, and wait until its workers have noticed."""
    build.send_signal(signal.SIGKILL)
    build.wait(30)
    until(lambda: not session(build.pid))


def session(leader):
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def records(out):
    return sorted(out.glob("units/[!.]*.json"))


def finished_shards(out):
    """Return (inode, time of change) of the shards of every unit that has a record."""
    names = {r.stem for r in records(out)}
    shards = [p for kind in ("cells", "tokens") for p in out.glob(f"{kind}/*/*") if p.stem in names]
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in [*shards, *records(out)]}


def test_a_rerun_keeps_what_was_finished(recipe, uninterrupted, contents, tmp_path):
    out = tmp_path / "corpus"
    build = start(recipe, out)
    until(lambda: len(records(out)) >= 4)
    kill(build)
    assert not (out / "manifest.json").exists()
    kept = finished_shards(out)
    assert 4 <= len(records(out)) < N_UNITS
    assert any(p.suffix == ".arrow" for p in kept)
    assert start(recipe, out).wait(120) == 0
    now = finished_shards(out)
    assert {p: now[p] for p in kept} == kept
    assert contents(out) == contents(uninterrupted)


def test_killed_at_several_moments_in_a_row(recipe, uninterrupted, contents, tmp_path):
    out = tmp_path / "corpus"
    kept = {}
    for delay in np.random.default_rng(0).uniform(0, 3, 4):
        build = start(recipe, out)
        until(lambda: (out / "lock").exists() and session_is_at_work(build, out))  # noqa: B023
        time.sleep(delay)
        kill(build)
        now = finished_shards(out)
        assert {p: now[p] for p in kept} == kept
        kept = now
    build_corpus(recipe, out, workers=2, on_stage=quiet)
    assert contents(out) == contents(uninterrupted)


def session_is_at_work(build, out):
    """Whether this build, not the one before, has begun to write: it holds the lock."""
    with suppress(psutil.Error):
        return any(f.path == str(out / "lock") for f in psutil.Process(build.pid).open_files())
    return build.poll() is not None


@pytest.mark.parametrize(
    "name", [".c2s-k1ll3d", ".c2s-k1ll3d.txt", "cells/train/.c2s-k1ll3d.parquet"]
)
def test_what_a_kill_leaves_half_written_is_swept_away(
    recipe, uninterrupted, contents, tmp_path, name
):
    """These are open for too short a time for a kill to meet them in a test."""
    out = shutil.copytree(uninterrupted, tmp_path / "corpus")
    (out / "manifest.json").unlink()
    if "." in name[5:]:
        (out / name).write_bytes(b"half of")
    else:
        (out / name).mkdir()
        (out / name / "tokenizer.json").write_bytes(b"half of")
    build_corpus(recipe, out, workers=1, on_stage=quiet)
    assert contents(out) == contents(uninterrupted)


def test_a_torn_record_or_shard_is_made_again(recipe, uninterrupted, contents, tmp_path):
    """As after a loss of power: files that have their names and not all of their bytes."""
    out = shutil.copytree(uninterrupted, tmp_path / "corpus")
    (out / "manifest.json").unlink()
    first, second, *_ = records(out)
    first.write_bytes(first.read_bytes()[:100])
    shard = next(out.glob(f"tokens/train/{second.stem}.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    build_corpus(recipe, out, workers=1, on_stage=quiet)
    assert contents(out) == contents(uninterrupted)


def test_an_interrupt_is_told_by_the_exit_code(recipe, uninterrupted, contents, tmp_path):
    out = tmp_path / "corpus"
    build = start(recipe, out)
    until(lambda: records(out))
    build.send_signal(signal.SIGINT)
    assert build.wait(60) == 130
    assert not (out / "manifest.json").exists()
    build_corpus(recipe, out, workers=1, on_stage=quiet)
    assert contents(out) == contents(uninterrupted)
