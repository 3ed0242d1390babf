"""`c2s model`: what it says, what it leaves, and what it refuses in one line."""

import json

import pytest
import torch

from c2s.models.adapters import add_lora, record_base
from c2s.models.directory import Model, load_model


@pytest.fixture
def adapter(model_folder, tmp_path):
    """An adapter on the small trained model."""
    base = load_model(model_folder, device="cpu")
    network = add_lora(base.network, rank=2, alpha=4, dropout=0.0, targets="all-linear")
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.constant_(parameter, 0.03)
    record = record_base(model_folder, str(model_folder))
    card = base.card.model_copy(update={"adapter": record})
    Model(network, base.tokenizer, card).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_merge_leaves_a_model_that_stands_by_itself(c2s, adapter, model_folder, tmp_path):
    code, out, _ = c2s("model", "merge", adapter, "-o", tmp_path / "whole", "--json")
    assert code == 0
    model = load_model(tmp_path / "whole", device="cpu")
    assert json.loads(out) == {"model": str(tmp_path / "whole"), "parameters": model.n_parameters}
    base, lora = load_model(model_folder, device="cpu"), load_model(adapter, device="cpu")
    assert model.n_parameters == base.n_parameters < lora.n_parameters
    ids = torch.arange(12)[None]
    with torch.no_grad():
        logits = [m.network(ids).logits for m in (model, lora, base)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_what_is_no_adapter_is_refused_in_one_line(c2s, adapter, model_folder, tmp_path):
    code, _, err = c2s("model", "merge", model_folder, "-o", tmp_path / "whole")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no adapter to merge" in err
    code, _, err = c2s("model", "merge", adapter, "-o", tmp_path / "whole", "--base", adapter)
    assert (code, err.count("\n")) == (1, 1)
    assert "is not the base that this adapter was trained on" in err
    assert not (tmp_path / "whole").exists()


def test_import_of_no_gguf_file_is_refused_in_one_line(c2s, tmp_path):
    code, _, err = c2s("model", "import", tmp_path / "none.gguf", "-o", tmp_path / "model")
    assert (code, err.count("\n")) == (1, 1)
    assert "none.gguf: no such file" in err
