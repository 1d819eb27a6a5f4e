import pytest

from gpt2dist.cli import main
from gpt2dist.config import presets
from tests.support import REPOSITORY


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_written_validates(here, tiny_dataset, capsys):
    assert main(["init", "gpt2-124m"]) == 0
    assert capsys.readouterr().err.startswith("gpt2dist init: gpt2-124m.yaml: set data.train")
    assert sorted(path.name for path in here.iterdir()) == ["gpt2-124m.yaml", "schema.json"]
    assert main(["validate", "gpt2-124m.yaml"]) == 2
    *mistakes, last = capsys.readouterr().err.splitlines()
    assert (
        "no such directory; `gpt2dist preprocess` makes a dataset" in last and len(mistakes) == 2
    )  # only the data
    (here / "data").mkdir()
    (here / "data/openwebtext").symlink_to(tiny_dataset)
    assert main(["validate", "gpt2-124m.yaml", "--world-size", "8", "schedule.total_steps=4000"]) == 0


def test_without_a_name_they_are_listed(capsys):
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == presets.names()


def test_nothing_is_overwritten(here, capsys):
    (here / "mine.yaml").write_text("mine")
    (here / "schema.json").write_text("mine, too")
    assert main(["init", "gpt2-124m", "--output", "mine.yaml"]) == 2
    assert "mine.yaml: exists already; name another file with --output" in capsys.readouterr().err
    assert main(["init", "gpt2-124m", "--output", "new/gpt.yaml", "-q"]) == 0
    assert main(["init", "gpt2-124m", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert [(here / name).read_text() for name in ("mine.yaml", "schema.json")] == ["mine", "mine, too"]
    assert (here / "new/schema.json").read_text() == (REPOSITORY / "configs/schema.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: no such preset; the presets are"),
        (["--output", "a.yaml"], "--output: needs a PRESET to write"),
        (["gpt2-124m", "--output", "."], ".: exists already"),
        (["gpt2-124m", "--output", "file/a.yaml"], "file"),
    ],
)
def test_mistakes(here, words, message, capsys):
    (here / "file").touch()
    assert main(["init", *words]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["file"]
