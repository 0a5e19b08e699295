"""An export on the Hugging Face hub, by `huggingface_hub`: the token is looked at before anything is made."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, errors
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from fcit_ray.errors import ExportError
from fcit_ray.models.folder import in_one_line

# Of httpx, or of what succeeds it in later releases of the hub's library.
_HTTP_ERROR: Any = errors.HTTPError


def check_push(repo: str, *, private: bool) -> None:
    """See that this machine may write to the hub, and that nothing private would be seen by all.

    Args:
        repo: `ORG/NAME`.
        private: whether it is to be private.

    Raises:
        ExportError: no such name, no network, no token, or one that only reads; the repository is there and public.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ExportError(f"--push {repo!r}: {in_one_line(error)}") from None
    if repo.count("/") != 1:
        raise ExportError(f"--push {repo!r}: expected ORG/NAME, as on the hub")
    try:
        who = HfApi().whoami()
        public = _is_public(repo)
    except Exception as error:
        raise _told(repo, error) from None
    if _role(who) == "read":
        raise ExportError(f"--push {repo}: the hub's token of {who['name']} only reads; give one that may write")
    if public and private:
        raise ExportError(f"--push {repo}: is public already; --public writes into it, or give another name")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload an export in one commit.

    Args:
        folder: the export.
        repo: `ORG/NAME`; made if it is not there.
        private: whether a repository that is made is private.

    Returns:
        The address of the repository.

    Raises:
        ExportError: the hub refuses, or cannot be reached; the export stays on the disk.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of fcit_ray")
    except Exception as error:
        raise ExportError(
            f"{_told(repo, error)}; {folder} is complete, and `hf upload {repo} {folder} .` sends it again"
        ) from None
    return str(address)


def _is_public(repo: str) -> bool:
    try:
        return not HfApi().model_info(repo).private
    except RepositoryNotFoundError:
        return False


def _role(who: dict[str, Any]) -> str:
    return str(who.get("auth", {}).get("accessToken", {}).get("role", ""))


def _told(repo: str, error: Exception) -> ExportError:
    """What the hub's library says, in one line. The token is in none of it."""
    if isinstance(error, LocalTokenNotFoundError):
        reason = "no token of the hub on this machine; `hf auth login`, or set HF_TOKEN"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set, so nothing is sent; unset it, or leave --push out"
    elif isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            reason = "the hub does not know this token; `hf auth login`, or set HF_TOKEN"
        elif status == 403:
            reason = f"the hub forbids it: {in_one_line(error)}; the token needs to write to {repo.partition('/')[0]}"
        else:
            reason = f"the hub answered {status}: {in_one_line(error)}"
    elif isinstance(error, _HTTP_ERROR | OSError):
        reason = f"the hub is not reached: {in_one_line(error)}; push from a machine with a network"
    else:
        raise error
    return ExportError(f"--push {repo}: {reason}")
