"""Uploading a model directory to the Hugging Face hub, where a recipe asks for it."""

from __future__ import annotations

from pathlib import Path

from c2s.common.errors import C2SError


def push_model(folder: Path, repository: str) -> str:
    """Upload a model directory; a repository that is new is private. Return its address.

    Parameters
    ----------
    folder
        The model directory.
    repository
        As owner/name.

    Raises
    ------
    C2SError
        The hub does not take it; the folder stays.
    """
    import huggingface_hub

    from c2s.models.hub import http_error

    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(repository, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="model",
            folder_path=str(folder),
            commit_message="Trained with c2s-toolkit",
        )
    except (http_error(), OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise C2SError(
            f"push_to_hub = {repository}: the hub did not take the model ({reason}); it is in {folder}"
        ) from error
    return str(url)
