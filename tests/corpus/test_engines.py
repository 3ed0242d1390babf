"""What a piece of work raises is an outcome, and the others go on."""

import errno

import pytest

from c2s.common.errors import InputError
from c2s.corpus.engines import map_here


def refuse(kind):
    if kind == "input":
        raise InputError("cells.h5ad: cannot be read")
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "/corpus/cells/train")
    if kind == "memory":
        raise MemoryError("Unable to allocate 9 GiB")
    return kind


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_failures_are_outcomes_in_one_line(workers):
    kinds = ["input", "disk", "memory", "fine"]
    found = {o.item: o for o in map_here(refuse, kinds, workers)}
    assert {k: o.result for k, o in found.items()} == dict.fromkeys(kinds) | {"fine": "fine"}
    assert found["input"].error == "cells.h5ad: cannot be read"
    assert found["disk"].error == "/corpus/cells/train: No space left on device"
    assert "9 GiB" in found["memory"].error
    assert "--workers" in found["memory"].error


def defect(_):
    raise KeyError("a defect of ours")


def test_a_defect_is_no_outcome():
    with pytest.raises(KeyError):
        list(map_here(defect, [1], 1))
