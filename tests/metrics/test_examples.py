"""The examples in the docstrings are check vectors: they are run, and every public function has one."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from c2s import metrics
from c2s.metrics import METRICS

MODULES = [f"c2s.metrics.{module.name}" for module in pkgutil.iter_modules(metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name), extraglobs={"np": np})
    assert found.failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_an_example_and_says_where_it_is_from(name):
    text = METRICS[name].function.__doc__
    for part in ("Returns\n", "Raises\n", "References\n", "Examples\n", ">>>"):
        assert part in text
