"""Texts to embeddings of their tokens, with a BERT from a local folder: what BERTScore compares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.transformers_log import quiet_transformers


class TransformerTextEncoder:
    """The output of one layer of a BERT or RoBERTa, token by token.

    It is what `c2s.metrics.bertscore` takes. Special tokens ([CLS], [SEP]) are returned with weight 0, all others with
    1, as in bert-score without IDF. A text's embeddings do not depend on the other texts (up to rounding). Longer texts
    than the network can read are cut.

    Parameters
    ----------
    folder
        Hugging Face folder with weights, configuration and tokenizer. Nothing is downloaded and no code of the folder
        is run. Weights are read from safetensors, or from a ``pytorch_model.bin`` as tensors only.
    num_layers
        The layer whose output is taken, from 1; `c2s.metrics.BERTSCORE_SETTINGS` has those of published models.
    device
        Where the network runs, as PyTorch names it.
    batch_size
        Texts at a time. Texts of like length are taken together.

    Raises
    ------
    InputError
        The folder holds no such network or tokenizer.
    UsageError
        The network has fewer layers, or `batch_size` is below 1.

    References
    ----------
    SPEC §7.4. Zhang et al. 2020 (BERTScore); Lee et al. 2020 (BioBERT), Bioinformatics 36:1234.

    Examples
    --------
    >>> encoder = TransformerTextEncoder("biobert-v1.1", num_layers=9)  # doctest: +SKIP
    >>> c2s.metrics.bertscore(["a beta cell"], ["a cell of the islets"], encoder)  # doctest: +SKIP
    """

    name = "transformer-text"

    def __init__(
        self, folder: str | Path, *, num_layers: int, device: str = "cpu", batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size: found {batch_size}, expected at least 1")
        self.folder = Path(folder)
        self.num_layers = int(num_layers)
        self.device = device
        self.batch_size = int(batch_size)
        self._load()

    def __call__(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the tokens' embeddings of each text, and their weights.

        Parameters
        ----------
        texts
            Any number of texts; white space around them is taken off.

        Returns
        -------
        list of (float32 array of shape (n_tokens, d), float32 array of shape (n_tokens,))
        """
        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        result: list[tuple[np.ndarray, np.ndarray]] = [None] * len(tokens)  # type: ignore[list-item]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, vectors in zip(rows, self._embed([tokens[i] for i in rows]), strict=True):
                special = np.isin(tokens[i], self._special)
                result[i] = vectors, (~special).astype(np.float32)
        return result

    def digest(self) -> str:
        """Return a SHA-256 (hexadecimal) of the weights, the tokens and the layer."""
        content = hashlib.sha256(f"{self.name} {self.num_layers} {self._max_length}".encode())
        for name, tensor in sorted(self._network.state_dict().items()):
            content.update(f"{name} {tuple(tensor.shape)}".encode())
            content.update(tensor.detach().cpu().float().numpy().astype("<f4").tobytes())
        for token, number in sorted(self._tokenizer.get_vocab().items()):
            content.update(f"{token}\0{number}\0".encode())
        return content.hexdigest()

    def _load(self) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: found no folder, expected one with a BERT's weights")
        source, here = str(self.folder), {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(source, **here)
            # RoBERTa's byte-level tokens have a leading space; bert-score puts one before the first word too.
            spaced = {"add_prefix_space": True} if config.model_type == "roberta" else {}
            self._tokenizer = AutoTokenizer.from_pretrained(source, **here, **spaced)
            with quiet_transformers():
                network, loaded = AutoModel.from_pretrained(
                    source, **here, weights_only=True, output_loading_info=True
                )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, UnpicklingError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise InputError(
                f"{self.folder}: could not be read as a text encoder ({reason}); expected a Hugging "
                "Face folder with config.json, weights and tokenizer files"
            ) from error
        # The pooler comes after the layers. Any other weight that is missing would be random.
        absent = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
        if absent:
            raise InputError(
                f"{self.folder}: the weights lack {absent[0]!r} ({len(absent)} such); expected all "
                f"of a {config.model_type}"
            )
        layers = int(config.num_hidden_layers)
        if not 1 <= self.num_layers <= layers:
            raise UsageError(f"num_layers: found {self.num_layers}, expected 1 to {layers}")
        self._network = network.to(self.device).float().eval()
        # RoBERTa counts positions from the padding token's id on.
        unused = config.pad_token_id + 1 if config.model_type == "roberta" else 0
        positions = config.max_position_embeddings - unused
        self._max_length = int(min(self._tokenizer.model_max_length, positions))
        self._special = [self._tokenizer.cls_token_id, self._tokenizer.sep_token_id]

    def _tokens(self, text: str) -> list[int]:
        ids = self._tokenizer(text.strip(), truncation=True, max_length=self._max_length)
        return list(ids["input_ids"])

    def _embed(self, tokens: list[list[int]]) -> list[np.ndarray]:
        """Return the embeddings of each text of one batch, without padding."""
        import torch

        longest = max(len(ids) for ids in tokens)
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.full((len(tokens), longest), padding, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, known in enumerate(tokens):
            ids[row, : len(known)] = torch.tensor(known)
            mask[row, : len(known)] = 1
        with torch.inference_mode():
            states = self._network(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                output_hidden_states=True,
            ).hidden_states[self.num_layers]
        return [
            states[row, : len(known)].cpu().numpy().astype(np.float32)
            for row, known in enumerate(tokens)
        ]
