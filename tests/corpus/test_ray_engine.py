"""Ray Data as the engine, on real clusters of this machine: the same bytes, whatever is lost on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

pytest.importorskip("ray")

from tests.corpus.conftest import quiet

from c2s.common.errors import C2SError, UsageError
from c2s.corpus.build import build_corpus, leave_for_units, make_plan
from c2s.corpus.engines import map_in_turn
from c2s.corpus.ray_engine import map_on_ray
from c2s.corpus.recipe import read_recipe
from c2s.corpus.unit import build_unit, shared_digest

PANCREAS = Path(__file__).parents[2] / "recipes" / "corpus" / "pancreas.yaml"

#: Many samples of each cell, so that units last long enough to be killed in.
LONG = {
    "sources": [{"data": "pancreas", "values": {"study": "Baron 2016"}}],
    "tokens": "genes",
    "samples_per_cell": 40,
    "unit_cells": 64,
    "quality": {"min_cells": 1},
}
N_UNITS = 31


def command(*args):
    return [sys.executable, "-m", "c2s.cli.main", *map(str, args)]


def environment(address=None):
    found = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "OMP_NUM_THREADS": "1"
    }
    return found if address is None else found | {"RAY_ADDRESS": address}


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def records(out):
    return list(out.glob("units/*.json"))


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of a head that takes no work and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, cut):
    """A corpus folder that is ready for its units, and the units; a value of cell 100 is wrong."""
    folder = tmp_path_factory.mktemp("prepared")
    wrong = cut.copy()
    wrong.X = wrong.X.astype("float32")
    wrong.X.data[wrong.X.indptr[100]] = -1
    wrong.write_h5ad(folder / "wrong.h5ad")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "sources": [{"data": "wrong.h5ad"}],
                "tokens": "genes",
                "unit_cells": 64,
                "quality": {"min_cells": 1},
            }
        )
    )
    out = folder / "corpus"
    (out / "work").mkdir(parents=True)
    plan = make_plan(read_recipe(recipe), folder, out / "work", map_in_turn, quiet)
    leave_for_units(plan, out)
    return out, plan.units(dict.fromkeys(plan.sources, ""), "")


@pytest.mark.slow
def test_a_local_cluster_gives_the_bytes_of_one_process(tmp_path, contents):
    manifest = build_corpus(PANCREAS, tmp_path / "here", workers=1, on_stage=quiet)
    found = subprocess.run(
        command("corpus", "build", PANCREAS, "--out", tmp_path / "ray", "--workers", 2, "--json", "--engine", "ray"),
        env=environment("local"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    # Ray says nothing, on neither stream.
    assert json.loads(found.stdout)["tokens"] == manifest["tokens"]
    assert "ray" not in found.stderr.casefold()
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert len(records(tmp_path / "ray")) == 5


@pytest.mark.slow
def test_a_machine_without_the_folder_is_named(cluster, prepared, monkeypatch):
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system lets nobody hide a folder from a process")
    out, units = prepared
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ray = Path(sys.executable).with_name("ray")
    start = f"{ray} start --address {cluster.address} --num-cpus 1 --object-store-memory 80000000 --block"
    blind = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs none {out} && exec {start}"],
        env=environment() | {"RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: len(cluster.global_state._live_node_ids()) == 4)
        with pytest.raises(UsageError) as caught:
            list(map_on_ray(partial(build_unit, str(out), shared_digest(out)), units, 1))
    finally:
        for process in [*psutil.Process(blind.pid).children(recursive=True), blind]:
            process.kill()
        blind.wait()
    until(lambda: len(cluster.global_state._live_node_ids()) == 3)
    line = (
        f"machine {socket.gethostname()} of the Ray cluster does not see the corpus folder {out};"
    )
    assert str(caught.value).startswith(line)
    assert records(out) == []
    assert list((out / "work").glob("ray-*")) == []


@pytest.mark.slow
def test_failures_are_outcomes(cluster, prepared, monkeypatch):
    out, units = prepared
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    outcomes = {
        o.item: o for o in map_on_ray(partial(build_unit, str(out), shared_digest(out)), units, 1)
    }
    assert set(outcomes) == set(units)
    good = [u for u in units if outcomes[u].error is None]
    assert [u.start for u in good] == [0, 128]
    assert all(outcomes[u].result.cells for u in good)
    line = outcomes[units[1]].error
    assert "wrong.h5ad" in line
    assert "-1" in line
    assert "\n" not in line
    assert sorted(p.stem for p in records(out)) == sorted(u.name for u in good)
    assert list((out / "work").glob("ray-*")) == []


@pytest.mark.slow
def test_a_deadly_item_is_given_up_and_a_defect_is_shown(cluster, prepared, monkeypatch):
    out, _ = prepared
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    def function(folder, item):
        with open(f"{folder}/work/{item}.begun", "a") as handle:
            handle.write(".")
        if item == "deadly":
            os._exit(1)
        if item == "defect":
            raise KeyError("a slip of ours")
        return f"{item} done"

    outcomes = {o.item: o for o in map_on_ray(partial(function, str(out)), ["deadly", "good"], 1)}
    assert outcomes["good"].result == "good done"
    assert outcomes["deadly"].result is None
    assert "ended from outside 6 times" in outcomes["deadly"].error
    assert (out / "work" / "deadly.begun").read_text() == "." * 6
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*a slip of ours"):
        list(map_on_ray(partial(function, str(out)), ["defect"], 1))


def test_an_address_where_nothing_answers(prepared, monkeypatch):
    out, units = prepared
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listened on: nothing answers there
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UsageError, match="no Ray cluster answers there"):
            list(map_on_ray(partial(build_unit, str(out), ""), units, 1))
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    with pytest.raises(UsageError, match="ray job submit"):
        list(map_on_ray(partial(build_unit, str(out), ""), units, 1))


def test_no_work_starts_no_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    assert list(map_on_ray(partial(build_unit, "nowhere", ""), [], 1)) == []


def test_without_ray_the_extra_is_named(prepared, monkeypatch):
    out, units = prepared
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(C2SError, match=r"pip install 'c2s-toolkit\[ray\]'"):
        list(map_on_ray(partial(build_unit, str(out), ""), units, 1))


@pytest.mark.slow
def test_a_killed_worker_and_a_lost_machine_change_nothing(cluster, tmp_path, contents):
    """Last, because the cluster has one node less after it."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(LONG))
    out = tmp_path / "ray"
    build = subprocess.Popen(
        command("corpus", "build", recipe, "--out", out, "--engine", "ray", "--json"),
        env=environment(cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    until(lambda: records(out))
    first, second = sorted(cluster.worker_nodes, key=lambda n: n.unique_id)
    worker = wait_for_worker(first)
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker], timeout=10)
    seen = len(records(out))
    until(lambda: len(records(out)) >= seen + 2)
    wait_for_worker(second)
    cluster.remove_node(second, allow_graceful=False)
    # Both were lost while there was work left.
    assert len(records(out)) < N_UNITS - 2
    result, errors = build.communicate(timeout=120)
    assert build.returncode == 0, errors
    assert json.loads(result)["cells"]["train"] > 1000
    here = tmp_path / "here"
    build_corpus(recipe, here, workers=1, on_stage=quiet)
    assert len(records(here)) == N_UNITS
    assert contents(out) == contents(here)


def wait_for_worker(node):
    """Return the process of a node that is doing a unit, waiting for one."""
    from ray._private import ray_constants

    (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
    found = []

    def busy():
        for process in psutil.Process(raylet.process.pid).children():
            try:
                if "".join(process.cmdline()).startswith("ray::Map(_work)"):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return bool(found)

    until(busy)
    return found[0]
