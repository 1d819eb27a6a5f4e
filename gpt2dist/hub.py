"""Models and tokenizers on the Hugging Face hub: NAME@REVISION, downloads, and why one failed.

The hub's client is imported only for a download.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from gpt2dist.errors import UserError

_CACHED = re.compile(r"(?:.*/)?models--([^/]+)/snapshots/([^/]+)(?:/.*)?")


def split_revision(name: str) -> tuple[str, str | None]:
    """Split NAME@REVISION; the revision is None if only a name is given.

    Raises:
        UserError: The revision is empty.
    """
    name, at, revision = name.partition("@")
    if at and not revision:
        raise UserError(f"{name}@: no revision after the @; name a branch, a tag or a commit, or remove the @")
    return name, revision or None


def download(name: str, patterns: Sequence[str], missing: str) -> Path:
    """Download files of a repository on the hub, unless they are in the cache, and return their directory.

    Args:
        name: Name on the hub, or NAME@REVISION for another branch than the main one, a tag or a commit.
        patterns: The files to download.
        missing: Start of the message if it cannot be downloaded.

    Raises:
        UserError: It cannot be downloaded.
    """
    repository, revision = split_revision(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors have no common base class
        raise UserError(f"{missing}, {reason_of(name, error)}") from error


def source_of(directory: Path) -> str:
    """Return NAME@COMMIT of a directory in the hub's cache; empty for other directories."""
    found = _CACHED.fullmatch(directory.as_posix())
    return f"{found[1].replace('--', '/')}@{found[2]}" if found else ""


def recorded_source(directory: Path) -> dict[str, str]:
    """Return what the result of a model records of its place on the hub; empty for other directories."""
    source = source_of(directory)
    return {"model_source": source} if source else {}


def reason_of(name: str, error: Exception) -> str:
    """Return why something could not be downloaded from the hub, and a way out.

    Args:
        name: Name on the hub, such as openai-community/gpt2, or NAME@REVISION.
        error: What `huggingface_hub` raised. Its errors have no common base class.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = first_line(error)
    repository, revision = split_revision(name)
    if "HFValidationError" in kinds:
        return "and it is not a name on the hub either, such as openai-community/gpt2"
    if "RevisionNotFoundError" in kinds:
        return f"and {repository} on the hub has no revision {revision}; name a branch, tag or whole commit"
    missing = {"RepositoryNotFoundError", "RemoteEntryNotFoundError"} & kinds
    if missing or ("EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds):
        return f"and the hub does not have it, or for members only ({said}); set HF_TOKEN if it is private"
    if is_offline():
        at = f" --revision {revision}" if revision else ""
        return (
            "and it could not be downloaded from the hub: HF_HUB_OFFLINE is set, and it is not in the cache; "
            f"unset that, or run `hf download {repository}{at}` where the hub can be reached, and share the "
            "cache (HF_HOME)"
        )
    return (
        f"and it could not be downloaded from the hub: {endpoint()} cannot be reached ({said}); check the "
        "network and the proxy (HTTPS_PROXY), or download it elsewhere and name its directory"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids connections."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
