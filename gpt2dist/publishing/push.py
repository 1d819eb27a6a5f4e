"""Push an exported model to the Hugging Face hub. Most of what can fail is checked before the export."""

import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCardData,
    get_token,
)
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id

from gpt2dist import __version__, hub
from gpt2dist.errors import RunError, UserError

OPTION = "--push-to-hub"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
"""Files of a previous model that would make the repository hold two models."""


class HubRepository:
    """The repository on the hub that a model is pushed to.

    Args:
        name: OWNER/NAME.
        public: Whether everyone may read it. If False, it is private.
    """

    def __init__(self, name: str, public: bool = False):
        self.name = name
        self.public = public
        self._api = HfApi(library_name="gpt2dist", library_version=__version__)

    def check(self) -> None:
        """Check, without changing the hub, that a model can be pushed.

        Raises:
            UserError: The name has no owner or is malformed, there is no token, or it cannot write there; the hub
                cannot be reached; or the repository exists with another visibility.
        """
        self._check_name()
        if hub.is_offline():
            raise UserError(f"{OPTION}: HF_HUB_OFFLINE is set; unset it, or export without {OPTION}")
        if not get_token():
            raise UserError(
                f"{OPTION}: no token of the hub; run `hf auth login`, or set HF_TOKEN to a token that may write "
                "(https://huggingface.co/settings/tokens)"
            )
        try:
            self._check_owner(self._api.whoami())
            self._check_visibility()
        except UserError:
            raise
        except Exception as error:  # the hub's errors have no common base class
            raise UserError(f"{OPTION}: {self._why(error)}") from error

    def check_card(self, metadata: ModelCardData) -> None:
        """Check that the hub accepts the metadata of a model card, such as the name of its license.

        Raises:
            UserError: It does not, or it cannot be reached.
        """
        card = {"repoType": "model", "content": f"---\n{metadata.to_yaml()}\n---\n"}
        try:  # older versions of ModelCard.validate ask huggingface.co, whatever HF_ENDPOINT says
            response = get_session().post(f"{self._api.endpoint}/api/validate-yaml", json=card)
            if response.status_code != 400:
                hf_raise_for_status(response)
                return
        except Exception as error:
            raise UserError(f"{OPTION}: {self._why(error)}") from error
        raise UserError(f"{OPTION}: the hub rejects the metadata of the model card: {_mistakes(response.text)}")

    def push(self, directory: Path) -> str:
        """Push all files of a directory in one commit, and return NAME@COMMIT.

        The repository is created if it does not exist. Weights of an earlier model in it are deleted.

        Raises:
            RunError: It failed; the directory is as it was.
        """
        files = sorted(path for path in directory.iterdir() if path.is_file())
        try:
            self._api.create_repo(self.name, private=not self.public, exist_ok=True)
            there = self._api.list_repo_files(self.name)
            operations: list[Any] = [CommitOperationAdd(path.name, path) for path in files]
            operations += [CommitOperationDelete(name) for name in _stale(there, {path.name for path in files})]
            done = self._api.create_commit(
                self.name, operations, commit_message=f"Model exported by gpt2dist {__version__}"
            )
        except Exception as error:
            command = ["hf", "upload", self.name, str(directory), ".", *([] if self.public else ["--private"])]
            raise RunError(
                f"{directory} is complete, but was not pushed: {self._why(error)}; push it with "
                f"`{shlex.join(command)}`"
            ) from error
        return f"{self.name}@{done.oid}"

    @property
    def url(self) -> str:
        """The address of the repository."""
        return f"{self._api.endpoint}/{self.name}"

    def _check_name(self) -> None:
        owner, slash, name = self.name.partition("/")
        if not (slash and owner and name):
            raise UserError(f"{OPTION}: {self.name!r} has no owner; give OWNER/NAME, such as me/my-gpt2")
        try:
            validate_repo_id(self.name)
        except HFValidationError as error:
            raise UserError(f"{OPTION}: {self.name!r} is not a name of the hub ({error})") from None

    def _check_owner(self, account: dict[str, Any]) -> None:
        """Check that a token may write to the owner's repositories, as far as the hub tells."""
        user = account.get("name", "")
        organizations = [each.get("name", "") for each in account.get("orgs") or ()]
        owner = self.name.partition("/")[0]
        if owner.lower() not in {each.lower() for each in (user, *organizations)}:
            also = f", or of {', '.join(organizations)}" if organizations else ""
            raise UserError(f"{OPTION}: the token is that of {user}{also}, not of {owner}; give {user}/NAME")
        token = (account.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise UserError(
                f"{OPTION}: the token of {user} may only read; make one that may write "
                "(https://huggingface.co/settings/tokens)"
            )

    def _check_visibility(self) -> None:
        try:
            is_private = bool(self._api.model_info(self.name).private)
        except RepositoryNotFoundError:
            return
        if self.public and is_private:
            raise UserError(
                f"--public: {self.name} exists and is private; change that on the hub, or omit --public"
            )
        if not self.public and not is_private:
            raise UserError(f"{OPTION}: {self.name} exists and is public; add --public, or give another name")

    def _why(self, error: Exception) -> str:
        """Return the reason of a failure in a clause."""
        said = re.sub(r" *\(Request ID.*?\)", "", hub.first_line(error))
        causes = (error, error.__cause__)  # an upload's error is wrapped
        if any(getattr(each, "response", None) is not None for each in causes):
            return f"the hub refused it ({said})"
        return f"{self._api.endpoint} cannot be reached ({said}); check the network and the proxy (HTTPS_PROXY)"


def _mistakes(answer: str) -> str:
    """Return the mistakes in the hub's answer about metadata."""
    try:
        return "; ".join(each["message"] for each in json.loads(answer)["errors"])
    except (ValueError, LookupError, TypeError):
        return answer


def _stale(there: list[str], written: set[str]) -> Iterator[str]:
    """Yield the weights in a repository that are not of the new model."""
    for name in there:
        if name not in written and any(fnmatch(name, pattern) for pattern in WEIGHTS):
            yield name
