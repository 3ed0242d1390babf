"""How fast a device multiplies matrices: what training on it is compared with."""

from __future__ import annotations

import time

import torch


def matrix_rate(
    device: str | torch.device, dtype: torch.dtype = torch.float32, seconds: float = 0.3
) -> float:
    """Return the floating-point operations a second of large matrix products, measured in less than a second.

    Parameters
    ----------
    device, dtype
        Where, and of which numbers.
    seconds
        How long is measured.
    """
    device = torch.device(device)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=dtype)
    b = torch.ones(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)

    def run() -> float:
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - started

    run()  # the first one loads the kernel
    times = [run()]
    while sum(times) < seconds:
        times.append(run())
    # The fastest: what the device can do, whoever else is on it.
    return 2 * size**3 / min(times)


def device_name(device: str | torch.device) -> str:
    """Return what a device is called."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.type
