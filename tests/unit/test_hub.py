"""Why the hub did not give a file."""

import pytest
from huggingface_hub import errors

from gpt2dist.hub import reason_of

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
            "and the hub does not have it, or only for members (404 Client Error.); set HF_TOKEN",
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
