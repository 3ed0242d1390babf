"""Models from the Hugging Face hub; what keeps one from coming is told apart, since the next step differs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from c2s.common.errors import InputError, listing, nearest
from c2s.models.released import profiles

#: Weights that would have to be unpickled.
_PICKLES = ["*.bin", "*.pt", "*.pkl", "*.h5"]


def from_hub(model_id: str) -> Path:
    """Return the folder of a model of the hub, downloaded where it is not on this machine yet.

    Raises
    ------
    InputError
        The name is none, the hub has no such model, does not give it, cannot be reached, or the download breaks off.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model_id, ignore_patterns=_PICKLES))
    except HFValidationError as error:
        raise InputError(
            f"{model_id}: no folder of that name here, and it cannot be a hub id, which is owner/name"
        ) from error
    except (OSError, ValueError, http_error()) as error:
        raise InputError(f"{model_id}: {_reason(model_id, error)}") from error


def _reason(model_id: str, error: Exception) -> str:
    """Return why there is no such model, and what to do."""
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    name = model_id.rpartition("/")[2]
    names = [alias for profile in profiles().values() for alias in profile.names]
    close = nearest(name, names)
    check = "check the name" + (f" (nearest: {listing(close)})" if close else "")
    if isinstance(error, GatedRepoError):
        return (
            "the hub gives it only to those who accepted its terms; accept them at "
            f"https://huggingface.co/{model_id}, then log in with: hf auth login"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no folder of that name here, and the hub has no such model; {check}, or log in with "
            "`hf auth login` if it is private"
        )
    on_the_way = isinstance(error, http_error()) and not isinstance(error, HfHubHTTPError)
    if not (on_the_way or isinstance(error, LocalEntryNotFoundError)):
        return f"cannot be downloaded ({str(error).partition(chr(10))[0]})"
    out = "cannot be reached"
    if HF_HUB_OFFLINE:
        out = "is not asked, since HF_HUB_OFFLINE is set"
    if name.casefold() in map(str.casefold, names):
        return (
            f"is a released checkpoint that is not on this machine yet, and the hub {out}; go online, or give the "
            "folder of a copy"
        )
    return f"no folder of that name here, and the hub {out}; {check}, go online, or give the folder of a copy"


def http_error() -> type[Exception]:
    """Return what is raised on the way to the hub, as by a proxy: its own errors extend those of that library."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])
