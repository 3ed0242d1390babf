"""Models from GGUF files, the format of llama.cpp: made into Hugging Face folders that can be trained further."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from c2s.common.errors import InputError, missing_extra, warn
from c2s.common.files import atomic_directory, refuse_foreign
from c2s.common.transformers_log import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Ways of splitting text that llama.cpp names and that transformers' byte-level tokenizer does by itself.
_AS_GPT2 = ("default", "gpt-2", "gpt2")

#: What a folder that this writes may hold.
_WRITTEN = {
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
}  # fmt: skip


class Imported(NamedTuple):
    """What came of a GGUF file.

    Attributes
    ----------
    folder
        The Hugging Face folder.
    architecture
        Its model type.
    parameters
        Number of weights, tied ones once.
    context
        Longest text in tokens.
    """

    folder: Path
    architecture: str
    parameters: int
    context: int


def import_gguf(file: str | os.PathLike[str], out: str | os.PathLike[str]) -> Imported:
    """Write the model of a GGUF file as a Hugging Face folder with its tokenizer.

    Quantised weights are turned into float32, so what their quantisation lost stays lost.

    Parameters
    ----------
    file
        A GGUF file of a causal language model that transformers knows.
    out
        The folder; it appears when it is complete.

    Returns
    -------
    Imported

    Raises
    ------
    InputError
        The file is missing, is none of these, or its weights give no finite numbers.
    UsageError
        The package `gguf` is not installed, or `out` holds other files.

    Warns
    -----
    C2SWarning
        The file splits text into words in a way that is not known here, so tokens may differ from those of training.
    """
    path, folder = Path(file), Path(out)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if find_spec("gguf") is None:
        raise missing_extra("gguf, which reads such files,", "gguf")
    if folder.exists():
        refuse_foreign(folder, _WRITTEN)
    pre = _pre_tokenizer(path)
    try:
        with quiet_transformers():
            network, tokenizer = _read(path)
    except Exception as error:  # transformers raises what it comes upon, down to IndexError
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: transformers cannot read it ({reason})") from error
    _split_as(tokenizer, pre, path)
    _check_finite(network, tokenizer, path)
    with atomic_directory(folder) as temporary, quiet_transformers():
        network.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    config: Any = network.config
    parameters = sum(p.numel() for p in network.parameters())
    return Imported(folder, config.model_type, parameters, config.max_position_embeddings)


def _pre_tokenizer(path: Path) -> str | None:
    """Return how the file says that text is split into words.

    Raises
    ------
    InputError
        It is no GGUF file, or holds no tokenizer.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
    except (OSError, ValueError, IndexError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: no GGUF file can be read there ({reason})") from error
    if "tokenizer.ggml.model" not in fields:
        raise InputError(f"{path}: holds no tokenizer (tokenizer.ggml.model)")
    named = fields.get("tokenizer.ggml.pre")
    return None if named is None else str(named.contents())


def _read(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return network and tokenizer, the weights in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
    )
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # One that never was quantised: the other refuses to be saved.
    network = type(read)(config)
    network.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return network.eval(), tokenizer


def _split_as(tokenizer: Any, pre: str | None, path: Path) -> None:
    """Have a tokenizer split text as the file says, where transformers does not see to it."""
    from tokenizers import pre_tokenizers

    if pre == "smollm":  # each digit by itself, then as GPT-2
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    elif pre is not None and pre not in (*_AS_GPT2, *_known_to_transformers()):
        warn(
            f"{path}: splits text into words as {pre!r}, which is not known here; compare token ids with those of the "
            "original tokenizer before you train"
        )


def _known_to_transformers() -> set[str]:
    """Return the ways of splitting that transformers sets up itself."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # inside of transformers, where it has been at different places
        return set()
    return set(GGUF_PRE_TOKENIZER_SPLITS)


def _check_finite(network: PreTrainedModel, tokenizer: Any, path: Path) -> None:
    """Let the network read a line.

    Raises
    ------
    InputError
        What it gives is not finite, or the tokenizer has tokens that it has no row for.
    """
    import torch

    rows = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"{path}: its tokenizer has {len(tokenizer):,} tokens, its weights only {rows:,}"
        )
    ids = tokenizer("MALAT1 B2M TMSB4X", add_special_tokens=False)["input_ids"] or [0]
    with torch.inference_mode():
        logits = network(torch.tensor([ids])).logits
    if not torch.isfinite(logits).all():
        raise InputError(f"{path}: its weights give numbers that are not finite; it is damaged")
