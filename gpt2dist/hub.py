"""Explain why the Hugging Face hub did not give a file. Does not import the hub's client."""

import os


def reason_of(name: str, error: Exception) -> str:
    """Return why something could not be downloaded from the hub, and a way out.

    Args:
        name: Name on the hub, such as openai-community/gpt2.
        error: What `huggingface_hub` or the tokenizers library raised. Their errors have no common base class.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if "HFValidationError" in kinds:
        return "and it is not a name on the hub either, such as openai-community/gpt2"
    missing = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"} & kinds
    if missing or ("EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds):
        return (
            f"and the hub does not have it, or only for members ({said}); set HF_TOKEN if it is private or gated"
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return (
            "and it could not be downloaded from the hub: HF_HUB_OFFLINE is set, and it is not in the cache; "
            f"unset that, or run `hf download {name}` where the hub can be reached, and share the cache (HF_HOME)"
        )
    return (
        f"and it could not be downloaded from the hub: {_place()} cannot be reached ({said}); check the network "
        "and the proxy (HTTPS_PROXY), or download it elsewhere and name its directory"
    )


def _place() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
