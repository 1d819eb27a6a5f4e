import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

import gpt2dist
from gpt2dist.cli import main
from gpt2dist.model.find_model import locate
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.hub import TOKEN, Hub, Repository, serving, use
from tests.support.small_models import make_model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(Hub()) as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def source(tmp_path, tiny_dataset):
    make_model().save_pretrained(tmp_path / "source")
    Tokenizer.load(tiny_dataset).save(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def push(source, tmp_path, capsys):
    """Exports and pushes; returns the exit code and the messages."""

    def call(name="me/small", *options):
        words = ["export", str(source), "--output", str(tmp_path / "model"), "--push-to-hub", name, *options]
        return main(words), capsys.readouterr().err

    return call


def test_a_model_is_pushed_in_one_commit_to_a_private_repository(hub, push, tmp_path, source):
    code, err = push("me/small", "--license", "mit")
    assert code == 0
    repository = hub.repositories["me/small"]
    assert repository.private and len(repository.commits) == 2, "that of the creation and ours"
    written = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert repository.files == written | {".gitattributes": b""}
    assert list(hub.uploads.values()) == [written["model.safetensors"]], (
        "the weights go to the large file storage"
    )
    assert hub.messages == [f"Model exported by gpt2dist {gpt2dist.__version__}"]
    commit = repository.refs["main"]
    assert f"{tmp_path}/model is complete; pushing it to {hub.url}/me/small\n" in err
    assert f"gpt2dist export: pushed me/small@{commit}, private\n" in err
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "mit" and 'model="me/small")' in card.content

    found = locate(f"me/small@{commit}")
    theirs, ours = load_file(found / "model.safetensors"), load_file(source / "model.safetensors")
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert GPT2LMHeadModel.from_pretrained(found).dtype == torch.float32


def test_public_only_if_asked_for_and_to_an_organization(hub, push):
    code, err = push("lab/small", "--public")
    assert code == 0 and not hub.repositories["lab/small"].private and ", public\n" in err


def test_a_second_push_replaces_the_weights_of_the_first(hub, push):
    hub.repositories["me/small"] = Repository(private=True)
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.md": b"mine"}
    first = hub.repositories["me/small"].commit(old)
    assert push()[0] == 0
    files = hub.repositories["me/small"].files
    assert files["notes.md"] == b"mine" and [name for name in files if "safetensors" in name] == [
        "model.safetensors"
    ]
    assert hub.repositories["me/small"].commits[first] == old


def test_the_python_api(hub, source, tmp_path):
    gpt2dist.export(source, tmp_path / "model", push_to_hub="me/small", quiet=True)
    assert hub.repositories["me/small"].private


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small", (), "--push-to-hub: 'small' has no owner; give OWNER/NAME, such as me/my-gpt2"),
        ("me/", (), "'me/' has no owner"),
        ("me/a b", (), "--push-to-hub: 'me/a b' is not a name of the hub"),
        ("me/a/b", (), "'me/a/b' is not a name of the hub"),
        ("you/small", (), "the token is that of me, or of lab, not of you; give me/NAME"),
        ("me/open", (), "me/open exists and is public; add --public, or give another name"),
        ("me/closed", ("--public",), "--public: me/closed exists and is private; change that on the hub"),
        (
            "me/small",
            ("--license", "nonsense"),
            'rejects the metadata of the model card: "license" must be one of',
        ),
    ],
)
def test_mistakes_are_found_before_the_export(hub, push, tmp_path, name, options, message):
    for each in ("open", "closed"):
        hub.repositories[f"me/{each}"] = Repository(private=each == "closed")
        hub.repositories[f"me/{each}"].commit({})
    code, err = push(name, *options)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "model").exists() and set(hub.repositories) == {"me/open", "me/closed"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda hub, patch: patch.delenv("HF_TOKEN"),
            "no token of the hub; run `hf auth login`, or set HF_TOKEN",
        ),
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_other"), "the hub refused it (Invalid user token."),
        (
            lambda hub, patch: setattr(hub, "role", "read"),
            "the token of me may only read; make one that may write",
        ),
        (
            lambda hub, patch: patch.setenv("HF_HUB_OFFLINE", "1"),
            "HF_HUB_OFFLINE is set; unset it, or export without",
        ),
        (lambda hub, patch: hub.fails.update({"/api/whoami": 500}), "the hub refused it (Server error '500"),
        (
            lambda hub, patch: patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"),
            "http://127.0.0.1:9 cannot be reached (",
        ),
    ],
    ids=["no token", "wrong token", "token that reads", "offline", "server error", "network down"],
)
def test_an_account_that_cannot_push_is_found_before_the_export(
    hub, push, tmp_path, monkeypatch, change, message
):
    change(hub, monkeypatch)
    code, err = push()
    assert code == 2 and f"gpt2dist export: --push-to-hub: {message}" in err and "Traceback" not in err
    assert not (tmp_path / "model").exists() and hub.repositories == {}


@pytest.mark.parametrize("path", ["/api/repos/create", "/lfs/", "/api/models/me/small/commit"])
def test_a_push_that_fails_leaves_the_directory_and_says_how_to_push_it(hub, push, tmp_path, path):
    hub.fails[path] = 403
    code, err = push()
    model = tmp_path / "model"
    assert code == 1 and f"{model} is complete, but was not pushed: the hub refused it (" in err
    assert err.endswith(f"; push it with `hf upload me/small {model} . --private`\n")
    assert GPT2LMHeadModel.from_pretrained(model).num_parameters() > 0
    assert set(hub.repositories.get("me/small", Repository()).refs) <= {"main"}
    assert len(hub.repositories.get("me/small", Repository()).commits) <= 1, "nothing of the model"


def test_public_needs_a_push(source, tmp_path, capsys):
    assert main(["export", str(source), "--output", str(tmp_path / "model"), "--public"]) == 2
    assert "--public: applies only to a push; add --push-to-hub OWNER/NAME" in capsys.readouterr().err
