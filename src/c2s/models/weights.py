"""The weights of a model: read from safetensors, in a precision, onto a device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from c2s.common.errors import InputError, UsageError, listing, missing_extra
from c2s.common.transformers_log import quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def load_network(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantize: str | None = None,
    config: PretrainedConfig | None = None,
) -> PreTrainedModel:
    """Load the weights of a causal language model; safetensors only, no code from the folder.

    Parameters
    ----------
    path_or_id
        A folder or a hub id.
    dtype, device_map, quantize
        As in `load_model`; without a map they are loaded to main memory.
    config
        Instead of the one beside the weights, such as one with a longer context.

    Raises
    ------
    InputError
        There are none, they cannot be read, or they do not fit the configuration beside them.
    UsageError
        `dtype` or `quantize` is none of those that `load_model` names, or an extra is missing.
    """
    dtype = known_dtype(dtype)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    placed = {
        "device_map": device_map,
        "quantization_config": _quantization(quantize, dtype),
        "config": config,
    }
    try:
        with quiet_transformers():
            network, info = AutoModelForCausalLM.from_pretrained(
                path_or_id,
                dtype=getattr(torch, dtype) if dtype else "auto",
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # found below, by name
                output_loading_info=True,
                **{name: value for name, value in placed.items() if value is not None},
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path_or_id}: the weights cannot be read ({reason})") from error
    # transformers would fill these with random numbers.
    unfit = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if unfit:
        raise InputError(
            f"{path_or_id}: {len(unfit):,} weights are missing or of another shape than config.json says "
            f"({listing(unfit, 2)}); the folder is damaged, save or download it anew"
        )
    return network


def n_weights(parameters: Iterable[Any]) -> int:
    """Return the number of weights; those that bitsandbytes packed count as many as they stand for."""
    total = 0
    for weight in parameters:
        packed = getattr(weight, "quant_state", None) is not None
        # Two in a byte, whatever the numbers are that the bytes are kept as.
        total += weight.numel() * (2 * weight.element_size() if packed else 1)
    return total


def known_dtype(dtype: str | None) -> str | None:
    """Return a precision as it was given.

    Raises
    ------
    UsageError
        It is none of those that `load_model` names.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise UsageError(f"dtype={dtype!r} is unknown; use 'float32', 'bfloat16' or 'float16'")
    return dtype


def resolve_device(device: str | None = None) -> str:
    """Return the device asked for, else "cuda" where there is a GPU, else "cpu".

    Raises
    ------
    UsageError
        The device is unknown or not there.
    """
    import torch

    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device is None:
        return "cuda" if there["cuda"] else "cpu"
    kind, _, number = device.partition(":")
    if kind not in there or (number and not number.isdecimal()):
        raise UsageError(f"device={device!r} is unknown; use 'cpu', 'cuda' or 'mps'")
    if not there[kind]:
        raise UsageError(f"device={device!r} is not there on this machine; use 'cpu'")
    if int(number or 0) >= (n_devices := torch.cuda.device_count() if kind == "cuda" else 1):
        raise UsageError(
            f"device={device!r} is not there on this machine; the last is '{kind}:{n_devices - 1}'"
        )
    return device


def placement_of(
    device: str | None, device_map: str | Mapping[str, Any] | None, quantize: str | None
) -> str | dict[str, Any] | None:
    """Return the map of devices that the weights are loaded to, or None to move them when they are loaded.

    Raises
    ------
    UsageError
        Both a device and a map are given.
    """
    if device_map is None:
        # Weights in 4 bits are made on the device itself.
        return None if quantize is None else {"": resolve_device(device)}
    if device is not None:
        raise UsageError(
            f"device={device!r} and device_map={device_map!r} say the same twice; give one of them"
        )
    return device_map if isinstance(device_map, str) else dict(device_map)


def _quantization(quantize: str | None, dtype: str | None) -> Any:
    """Return the configuration of quantised weights, or None.

    Raises
    ------
    UsageError
        It is unknown, or its library is not installed.
    """
    if quantize is None:
        return None
    if quantize != "4bit":
        raise UsageError(f"quantize={quantize!r} is unknown; use '4bit', or leave it out")
    if find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes, which keeps weights in 4 bits,", "quant")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype or "bfloat16",
    )
