"""Why a hub id gives no model: a wrong name, no network, terms to accept; each says the next step in one line."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import validate_repo_id

from c2s.common.errors import InputError
from c2s.models.directory import load_model

KNOWN = "vandijklab/C2S-Scale-Gemma-2-2B"


def http(kind):
    request = httpx2.Request("GET", "https://huggingface.co")
    return kind("no", response=httpx2.Response(404, request=request))


def refused(name, error, monkeypatch, offline=False):
    def download(model_id, **_):
        validate_repo_id(model_id)
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(InputError) as caught:
        load_model(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message.removeprefix(f"{name}: ")


@pytest.mark.parametrize(
    "error", [errors.LocalEntryNotFoundError("offline"), httpx2.ProxyError("no proxy")]
)
def test_without_network_a_known_name_and_another_are_told_apart(error, monkeypatch):
    assert refused(KNOWN, error, monkeypatch) == (
        "is a released checkpoint that is not on this machine yet, and the hub cannot be reached; go online, or give "
        "the folder of a copy"
    )
    assert refused("vandijklab/C2S-Scale-Gemma-2-2", error, monkeypatch).startswith(
        "no folder of that name here, and the hub cannot be reached; check the name (nearest: C2S-Scale-Gemma-2-2B"
    )
    assert "HF_HUB_OFFLINE is set" in refused(KNOWN, error, monkeypatch, offline=True)


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    said = refused("someone/zzz", http(errors.RepositoryNotFoundError), monkeypatch)
    assert said == (
        "no folder of that name here, and the hub has no such model; check the name, or log in with "
        "`hf auth login` if it is private"
    )


def test_terms_that_are_not_accepted(monkeypatch):
    said = refused(KNOWN, http(errors.GatedRepoError), monkeypatch)
    assert f"accept them at https://huggingface.co/{KNOWN}" in said


def test_what_cannot_be_a_name(monkeypatch):
    assert "cannot be a hub id" in refused("not a/name", None, monkeypatch)


def test_a_download_that_breaks_off(monkeypatch):
    said = refused(KNOWN, OSError(28, "No space left on device"), monkeypatch)
    assert said == "cannot be downloaded ([Errno 28] No space left on device)"
