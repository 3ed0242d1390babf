"""On a device without float64, as Apple's GPUs, nothing is made in float64 there: seen on tensors without values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from c2s.decoding.sampling import Sampling, choose, in_double
from c2s.training.loop import PackedTrainer


class WithoutFloat64(TorchDispatchMode):
    """Refuses what such a device refuses; that tensors of two devices meet, fake tensors refuse themselves."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and (each.device.type, each.dtype) == (
                "mps",
                torch.float64,
            ):
                raise TypeError("the device has no float64")
        return made


@pytest.fixture
def logits():
    """Logits that lie on such a device, as far as torch can tell."""
    with FakeTensorMode(), WithoutFloat64():
        yield torch.empty((3, 7), device="mps:0")


def test_the_device_refuses_float64(logits):
    with pytest.raises(TypeError, match="has no float64"):
        logits.double()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0), Sampling(temperature=(0, 1), top_k=2, top_p=0.9)],
)
def test_a_token_is_drawn(logits, sampling):
    drawn = choose(logits, sampling, np.full(3, 0.5), np.array([0, 0.5, 1]))
    assert (drawn.device.type, drawn.dtype, drawn.shape) == ("mps", torch.int64, (3,))


def test_exact_numbers_are_on_the_processor(logits):
    exact = in_double(logits)
    assert (exact.device.type, exact.dtype) == ("cpu", torch.float64)


def test_losses_of_samples_are_added_up_on_the_processor(logits):
    trainer = SimpleNamespace(
        task_names=("cell_type",), _seen=torch.zeros(2, 2, dtype=torch.float64)
    )
    batch = SimpleNamespace(tasks=torch.tensor([0, -1, 0]))
    PackedTrainer._note(trainer, batch, torch.empty(3, device=logits.device))
    assert trainer._seen.device.type == "cpu"


def test_elsewhere_numbers_stay_where_they_are():
    values = torch.tensor([0.1, 2.0])
    assert in_double(values).dtype == torch.float64
    with FakeTensorMode():
        assert in_double(torch.empty(2, device="cuda:0")).device.type == "cuda"
