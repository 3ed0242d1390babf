"""Ray Data as the engine of a corpus: the units of work mapped over the machines of a cluster.

The cluster is the one that `RAY_ADDRESS` names, else one that `ray start` left running on this machine, else a local
one that is started for the build and stopped after it. What a unit writes does not depend on where or how often it is
done, so a unit whose machine is lost is simply done again.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from c2s.common.errors import C2SError, UsageError, listing, missing_extra, warn
from c2s.corpus.engines import Item, Outcome, Result, refused

#: How often a piece of work is begun. Ray itself would go on for ever with one that ends every worker it is given to.
_TRIES = 6

#: Seconds that a machine is given to see a new folder: network file systems look again only now and then.
_PATIENCE = 5.0

#: Seconds until a machine that does not answer is a problem. Its first task waits for the imports of a fresh process.
_ANSWER = 300.0

#: Bytes of the object store of a local cluster, near the least that Ray takes: only records pass through it.
_STORE = 100 << 20


def map_on_ray(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Outcome[Item, Result]]:
    """Map a function over items with Ray Data, an item a task of one CPU; yield outcomes as they come.

    A failure of one item is an outcome, and the others go on. An item whose worker or machine is lost is done again
    elsewhere. Ray Data holds no more outcomes than fit its object store; the tasks wait until they are taken.

    Parameters
    ----------
    function
        A `functools.partial` whose first argument is the corpus folder, with what the plan left in it; raises
        `C2SError` for what a user can mend.
    items
        Picklable.
    workers
        CPUs of the local cluster that is started where there is no other. A cluster that is there is used whole.

    Raises
    ------
    UsageError
        Ray is not installed, `RAY_ADDRESS` names no cluster that can be used, or a machine does not see the corpus
        folder or a source, or has other versions of the libraries that decide bytes.
    C2SError
        Ray gave up.
    """
    if not items:
        return
    folder, function = _absolute(function)
    with connected(workers) as elsewhere, _common_ground(folder) as ground:
        if elsewhere:
            _check_machines(folder, ground)
        yield from _mapped(function, items, ground)


def _absolute(function: Callable[[Item], Result]) -> tuple[Path, Callable[[Item], Result]]:
    """Return the corpus folder, and the function with the folder's full path: workers begin in folders of their own."""
    if not isinstance(function, partial) or not function.args:
        raise TypeError(f"expected a functools.partial that begins with a folder, got {function!r}")
    folder = Path(function.args[0]).resolve()
    return folder, partial(function.func, str(folder), *function.args[1:], **function.keywords)


# --- the cluster ------------------------------------------------------------------------------


@contextmanager
def connected(workers: int) -> Iterator[bool]:
    """Join a cluster or start a local one, and leave or stop it at the end.

    Inside another such block, or where the caller has joined a cluster, that one is used and stays.

    Parameters
    ----------
    workers
        CPUs of the local cluster that is started where there is no other.

    Yields
    ------
    bool
        Whether other machines may belong to the cluster.

    Raises
    ------
    UsageError
        Ray is not installed, or `RAY_ADDRESS` names no cluster that can be used.
    C2SError
        The cluster cannot be joined or started.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield len(ray.nodes()) > 1
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _address()
    try:
        if address is None:
            # The loopback address: nobody else is to reach a cluster that is ours alone.
            ray.init("local", num_cpus=workers, object_store_memory=_STORE, include_dashboard=False,
                     _node_ip_address="127.0.0.1", **quiet)  # fmt: skip
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise C2SError(
                f"Ray: no local cluster can be started: {_in_one_line(error)}"
            ) from error
        token = (
            ""
            if "RAY_AUTH_MODE" in os.environ
            else "; if it asks for a token, set RAY_AUTH_MODE=token"
        )
        raise C2SError(f"Ray: cannot join the cluster: {_in_one_line(error)}{token}") from error
    try:
        yield address is not None
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    """Import Ray and Ray Data, without usage statistics and without its messages on our standard output."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray prints its notes on lost workers to standard output, where `--json` puts its result. They are in Ray's logs.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("ray[data]", "ray") from error
    return ray


def _address() -> str | None:
    """Return where the cluster is, or None where there is none.

    Ray's own "auto" also joins clusters that other programs, even of other users, run for themselves; and it ends
    this process, without an exception, where nothing answers.
    """
    from ray._private.utils import read_ray_address

    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if "://" in named:
        raise UsageError(
            f"RAY_ADDRESS is {named!r}, which is not the address of a cluster's head (host:port); run this command on "
            "a machine of the cluster, for example with 'ray job submit'"
        )
    address = read_ray_address() if named in ("", "auto") else named
    if address and _answers(address):
        return address
    if named:
        raise UsageError(
            f"RAY_ADDRESS is {named!r}, and no Ray cluster answers there; start one, or unset it to use this machine"
        )
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def _in_one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# --- what all machines must share -------------------------------------------------------------


@contextmanager
def _common_ground(folder: Path) -> Iterator[Path]:
    """Make a folder that every machine must see; tries are counted in it."""
    ground = Path(tempfile.mkdtemp(prefix="ray-", dir=folder / "work"))
    try:
        # Workers may run as another user of the same group of machines.
        ground.chmod(0o777)
        yield ground
    finally:
        shutil.rmtree(ground, ignore_errors=True)


def _check_machines(folder: Path, ground: Path) -> None:
    """Let every machine that has CPUs look for the corpus folder and the sources, before any work is given out.

    Raises
    ------
    UsageError
        A machine does not see what it needs, or has another environment.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayTaskError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not nodes:
        warn("no machine of the Ray cluster has a CPU for tasks yet; waiting for one to join")
    look = ray.remote(num_cpus=0)(_look_around)
    answers = [
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote(str(folder), str(ground))
        for n in nodes
    ]
    here = _versions()
    for node, answer in zip(nodes, answers, strict=True):
        name = node["NodeManagerHostname"]
        try:
            problem, there = ray.get(answer, timeout=_ANSWER)
        except TaskUnschedulableError:
            continue  # it was lost since
        except GetTimeoutError:
            problem, there = f"did not answer within {_ANSWER:.0f} seconds", here
        except RayTaskError as error:
            problem, there = f"cannot run c2s ({_in_one_line(error)})", here
        if problem is None and there != here:
            other = [
                f"{lib} {there[lib]} (here {here[lib]})" for lib in here if there[lib] != here[lib]
            ]
            problem = f"has {listing(other)}, and other versions can give other bytes"
        if problem is not None:
            raise UsageError(
                f"machine {name} of the Ray cluster {problem}; all machines need the corpus folder and the sources "
                "under the same paths, and the same environment"
            )


def _look_around(folder: str, ground: str) -> tuple[str | None, dict[str, str]]:
    """Return what this machine lacks for building a corpus, or None; and its versions of what decides bytes."""
    from c2s.corpus.unit import Shared

    if not _sees(Path(ground)):
        return f"does not see the corpus folder {folder}", {}
    shared = Shared(Path(folder))
    needed = [file.resolved for file in shared.files.values() if file.resolved != file.path]
    needed += shared.resolved.values()
    if shared.recipe.prompts not in ("c2s", "upstream"):
        needed.append(shared.recipe.prompts)
    missing = [path for path in needed if not os.access(path, os.R_OK)]
    return (f"cannot read {listing(missing, 3)}" if missing else None), _versions()


def _sees(ground: Path) -> bool:
    until = time.monotonic() + _PATIENCE
    while not ground.is_dir():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _versions() -> dict[str, str]:
    from c2s.corpus.build import LIBRARIES

    return {name: metadata.version(name) for name in ("c2s-toolkit", *LIBRARIES)}


# --- the work ---------------------------------------------------------------------------------


def _mapped(
    function: Callable[[Item], Result], items: Sequence[Item], ground: Path
) -> Iterator[Outcome[Item, Result]]:
    import ray

    rows = [{"position": i, "item": pickle.dumps(item)} for i, item in enumerate(items)]
    with _silence("ray.data"):
        # A block an item: what is lost with a machine is one unit of each of its workers.
        units = ray.data.from_items(rows, override_num_blocks=len(rows))
        units.context.enable_progress_bars = False
        units.context.print_on_execution_start = False
        done = units.map(_work, fn_args=(function, str(ground)), num_cpus=1)
        try:
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                for position, answer in zip(batch["position"], batch["answer"], strict=True):
                    result, error, defect = pickle.loads(answer)
                    if defect is not None:
                        raise RuntimeError(f"on a worker of Ray:\n{defect}")
                    yield Outcome(items[position], result, error)
        except ray.exceptions.RayError as error:
            raise C2SError(
                f"Ray gave up ({_in_one_line(error)}); what was finished is kept: run the same command again"
            ) from error


@contextmanager
def _silence(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _work(row: dict[str, Any], function: Callable[[Any], Any], ground: str) -> dict[str, Any]:
    """Do one piece of work on a worker.

    Parameters
    ----------
    row
        `position`, and `item` pickled.
    function
        What is mapped.
    ground
        The folder that all machines see.

    Returns
    -------
    dict
        `position`; and `answer`: pickled, the result, the line of a failure, and the traceback of a defect of ours.
    """
    import numba
    import pyarrow as pa

    # There is a task a CPU.
    numba.set_num_threads(1)
    pa.set_cpu_count(1)
    tries = Path(ground) / f"{row['position']}.tries"
    result = error = defect = None
    if not _sees(Path(ground)):  # a machine that joined since the check
        error = (
            f"machine {socket.gethostname()} of the Ray cluster does not see the folder {ground}"
        )
    elif _begun(tries) > _TRIES:
        error = (
            f"its worker was ended from outside {_TRIES} times, perhaps for want of memory; give the workers more "
            "memory for each CPU"
        )
    else:
        try:
            result = function(pickle.loads(row["item"]))
        except C2SError as known:
            error = str(known)
        except (OSError, MemoryError) as known:
            error = refused(known)
        except Exception:
            defect = traceback.format_exc()
        tries.unlink(missing_ok=True)
    return {"position": row["position"], "answer": pickle.dumps((result, error, defect))}


def _begun(tries: Path) -> int:
    """Count one more try; return how many there were. The file is there only while a try has not ended."""
    with open(tries, "ab") as handle:
        handle.write(b".")
        return handle.tell()
