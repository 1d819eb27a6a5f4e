"""A model and a tokenizer of the hub at a revision: what is made of them names the commit."""

import json

import pytest

from gpt2dist.cli import main
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import locate
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.hub import Hub, Repository, files_of, serving, use
from tests.support.ranks import run_ranks
from tests.support.runs import train, write_run
from tests.support.small_models import make_model


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_dataset):
    """A hub with a model at me/small: the tag v1, and another model on the main branch."""
    with serving(Hub()) as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        repository = hub.repositories["me/small"] = Repository()
        for seed, branch in ((1, "v1"), (2, "main")):
            directory = tmp_path / f"model-{branch}"
            make_model(seed=seed).save_pretrained(directory)
            Tokenizer.load(tiny_dataset).save(directory)
            repository.commit(files_of(directory), branch)
        yield hub


def test_the_commit_of_a_model_is_recorded_by_all_that_is_made_of_it(hub, tmp_path, tiny_dataset):
    commit = hub.repositories["me/small"].refs["v1"]
    model = f"me/small@{commit}"
    run = tmp_path / "run"
    shape = ["model.n_layer=null", "model.n_head=null", "model.n_embd=null", "model.context_length=null"]
    train(write_run(tmp_path, tiny_dataset), *shape, "model.init_from=me/small@v1")
    (started,) = (run / "starts").glob("*/environment.json")
    for path in (started, run / "environment.json"):
        assert json.loads(path.read_text())["init_from"]["source"] == model

    result = tmp_path / "result.json"
    words = ["evaluate", "me/small@v1", "--data", str(tiny_dataset), "--output", str(result)]
    run_ranks(main, 1, words)
    assert json.loads(result.read_text())["model_source"] == model

    assert main(["export", str(run), "--output", str(tmp_path / "exported")]) == 0
    card = (tmp_path / "exported/README.md").read_text()
    assert "base_model: me/small\n" in card
    assert f"Its training began with the weights of me/small at revision `{commit}`." in card


def test_the_commit_of_a_tokenizer_is_in_the_manifest(hub, tmp_path, tiny_dataset, capsys):
    (tmp_path / "a.txt").write_text("abc def")
    output = tmp_path / "dataset"
    assert (
        main(["preprocess", str(tmp_path / "a.txt"), "--tokenizer", "me/small@v1", "--output", str(output)]) == 0
    )
    commit = hub.repositories["me/small"].refs["v1"]
    manifest = Manifest.load(output)
    assert manifest.tokenizer_source == f"me/small@{commit}"
    assert manifest.tokenizer_fingerprint == Manifest.load(tiny_dataset).tokenizer_fingerprint
    assert Manifest.load(tiny_dataset).tokenizer_source == ""
    capsys.readouterr()
    assert main(["inspect", str(output)]) == 0
    assert f"(me/small@{commit})" in capsys.readouterr().out


def test_branches_tags_and_commits_and_what_is_none(hub, monkeypatch):
    refs = hub.repositories["me/small"].refs
    assert locate("me/small").name == locate("me/small@main").name == refs["main"] != refs["v1"]
    assert locate("me/small@v1", weights=False).name == locate(f"me/small@{refs['v1']}").name == refs["v1"]
    for name, message in {
        "me/small@v9": "me/small@v9: no such directory, and me/small on the hub has no revision v9",
        "me/other@v1": "me/other@v1: no such directory, and the hub does not have it, or for members only",
        "me/small@": "me/small@: no revision after the @",
    }.items():
        with pytest.raises(UserError, match=message):
            locate(name)
        with pytest.raises(UserError, match=message.split(", ")[-1]):
            Tokenizer.load(name)
    hub.repositories["me/bare"] = Repository()
    hub.repositories["me/bare"].commit({"vocab.json": b"{}"})
    with pytest.raises(UserError, match=r"me/bare: has no tokenizer\.json on the hub"):
        Tokenizer.load("me/bare")


def test_the_tokenizer_of_the_hub_is_the_same_as_in_its_directory(hub, tmp_path):
    ours, theirs = Tokenizer.load("me/small"), Tokenizer.load(tmp_path / "model-main")
    assert (ours.fingerprint, ours.end_of_text) == (theirs.fingerprint, theirs.end_of_text)
    assert ours.hub_source == f"me/small@{hub.repositories['me/small'].refs['main']}" and theirs.hub_source == ""
