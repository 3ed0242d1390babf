"""What maps a pure function over pieces of work: the processes of one machine, or Ray Data."""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait as wait_for_end
from typing import Any, Generic, TypeVar

from c2s.common.errors import C2SError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What a worker process needs in any case; loaded once, before they fork.
_PRELOADED = ["c2s.corpus.preload"]

#: Pieces of work that wait for each process, so that none has to wait for the main process.
_AHEAD = 2


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of a piece of work: a result, or the line that says what went wrong."""

    item: Item
    result: Result | None
    error: str | None


#: Maps a picklable function over items and yields outcomes as they come. A function raises `C2SError` for what a user
#: can mend; the failure of one item is an outcome, and the others go on.
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Outcome[Any, Any]]]


@contextmanager
def processes(workers: int) -> Iterator[Map]:
    """Start processes of this machine, and yield what maps with them; they end with the block.

    No more than `_AHEAD` items wait for each process. With one worker, the work is done in this process.

    Raises
    ------
    C2SError
        When mapping: a process died, for example for want of memory.
    """
    if workers == 1:
        yield map_in_turn
        return
    # Not fork: the libraries that are loaded hold threads and locks.
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        # In a thread of its own, because asking for processes waits until their libraries are loaded; meanwhile the
        # caller plans.
        threading.Thread(target=_start, args=(pool, workers), daemon=True).start()
        try:
            yield partial(_bounded, pool, _AHEAD * workers)
        except BrokenProcessPool as error:
            raise C2SError(
                "a worker process was ended from outside, perhaps for want of memory; what was finished is kept: run "
                "the same command again, with fewer --workers if it happens again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def map_here(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Outcome[Item, Result]]:
    """Map a function over items with processes of this machine that are started for it; see `processes`."""
    with processes(workers) as mapped:
        yield from mapped(function, items)


def map_in_turn(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Outcome[Item, Result]]:
    """Map a function over items in this process."""
    for item in items:
        yield _attempt(function, item)


def _bounded(
    pool: ProcessPoolExecutor, most: int, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Outcome[Item, Result]]:
    waiting = iter(items)
    running: set[Future[Outcome[Item, Result]]] = set()
    while True:
        while len(running) < most:
            item = next(waiting, None)
            if item is None:
                break
            running.add(pool.submit(_attempt, function, item))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, function(item), None)
    except C2SError as error:
        return Outcome(item, None, str(error))
    except (OSError, MemoryError) as error:
        return Outcome(item, None, refused(error))


def refused(error: OSError | MemoryError) -> str:
    """Return a line for what the machine refused, such as a folder on a full disk or memory."""
    if isinstance(error, MemoryError):
        return f"no memory was left ({error or 'none'}); run the same command again with fewer --workers"
    return f"{error.filename or 'a file'}: {error.strerror or error}"


def _begin() -> None:
    """Prepare a worker: one thread for the kernels, because there is a process a core; and none outlives its parent."""
    import numba
    import pyarrow as pa

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # A unit makes tens of thousands of objects and no cycle; looking for cycles cost a tenth of its time.
    gc.disable()
    numba.set_num_threads(1)
    pa.set_cpu_count(1)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End this process when the main one is gone: it may have been killed, and nobody would take the results."""
    parent = mp.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)


def _start(pool: ProcessPoolExecutor, workers: int) -> None:
    # A pool that is closed or broken by now says so to whoever maps with it; without its server it is the end anyhow.
    with suppress(RuntimeError, EOFError, OSError):
        for _ in range(workers):
            pool.submit(_warm)


def _warm() -> None:
    """Load what the first unit would wait for."""
    from c2s.corpus.preload import run_kernels_once

    run_kernels_once()


@contextmanager
def started(engine: str, workers: int, here: Map) -> Iterator[Map]:
    """Start the engine that a recipe names, and yield what maps with it; what was started ends with the block.

    Parameters
    ----------
    here
        The processes of this machine, which are there already.
    """
    if engine == "processes":
        yield here
    elif engine == "ray":
        from c2s.corpus.ray_engine import connected, map_on_ray

        with connected(workers):
            yield partial(map_on_ray, workers=workers)
    else:
        raise UsageError(f"engine {engine!r} is unknown; use 'processes' or 'ray'")
