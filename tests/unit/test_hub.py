"""Why the hub did not give a file."""

from pathlib import Path

import pytest
from huggingface_hub import errors

from gpt2dist.errors import UserError
from gpt2dist.hub import reason_of, recorded_source, source_of, split_revision

NAME = "nobody/nothing"


class NotFoundError(errors.RepositoryNotFoundError):
    def __init__(self):
        Exception.__init__(self, "404 Client Error.\nmore")

    __str__ = Exception.__str__


NotFoundError.__name__ = "GatedRepoError"


@pytest.mark.parametrize(
    ("error", "offline", "expected"),
    [
        (errors.HFValidationError("Repo id must …"), "", "and it is not a name on the hub either"),
        (
            NotFoundError(),
            "",
            "and the hub does not have it, or for members only (404 Client Error.); set HF_TOKEN",
        ),
        (errors.LocalEntryNotFoundError("not in the cache"), "1", "HF_HUB_OFFLINE is set, and it is not in the"),
        (
            errors.LocalEntryNotFoundError("Got: ConnectError: refused"),
            "0",
            "the hub: http://mirror cannot be reached (Got: ConnectError: refused); check the network and the",
        ),
        (ConnectionError(), "", "cannot be reached (ConnectionError); check the network"),
    ],
)
def test_each_cause_has_its_own_way_out(monkeypatch, error, offline, expected):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    assert expected in reason_of(NAME, error)


def test_a_revision_that_the_hub_does_not_have():
    class NoRevision(Exception):
        pass

    NoRevision.__name__ = "RevisionNotFoundError"
    assert reason_of("me/small@v9", NoRevision("404")) == (
        "and me/small on the hub has no revision v9; name a branch, tag or whole commit"
    )


def test_names_with_and_without_a_revision(monkeypatch):
    assert split_revision("gpt2") == ("gpt2", None)
    assert split_revision("me/small@refs/pr/1") == ("me/small", "refs/pr/1")
    with pytest.raises(UserError, match="gpt2@: no revision after the @; name a branch, a tag or a commit"):
        split_revision("gpt2@")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hint = reason_of("me/small@v1", ConnectionError())
    assert "run `hf download me/small --revision v1` where the hub" in hint


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/home/me/.cache/hub/models--me--small/snapshots/0123abc", "me/small@0123abc"),
        ("hub/models--gpt2/snapshots/0123abc", "gpt2@0123abc"),
        ("models--gpt2", ""),
        ("/home/me/snapshots/0123abc", ""),
    ],
)
def test_the_source_of_a_directory_in_the_cache(path, source):
    assert source_of(Path(path)) == source
    assert recorded_source(Path(path)) == ({"model_source": source} if source else {})
