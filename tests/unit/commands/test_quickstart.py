import pytest

from gpt2dist.cli import main
from gpt2dist.quickstart import pipeline


@pytest.fixture
def settings(monkeypatch):
    """Settings of the pipelines that were run."""
    seen = []

    def run(self):
        seen.append(self)
        self.on_heading("1/6 corpus")
        self.on_info("3 documents")
        if self.prompt == "fails":
            raise pipeline.StepFailedError(5)
        return "the table"

    monkeypatch.setattr(pipeline.Quickstart, "run", run)
    return seen


def test_the_table_is_the_output(settings, capsys):
    assert main(["quickstart", "a.txt", "b/", "--prompt", "Once", "--steps", "7"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("the table\n", "\n── 1/6 corpus\n3 documents\n")
    (only,) = settings
    assert (only.inputs, only.prompt, only.steps, only.quiet) == (("a.txt", "b/"), "Once", 7, False)


def test_quiet(settings, capsys):
    assert main(["quickstart", "-q"]) == 0
    assert capsys.readouterr() == ("the table\n", "") and settings[0].quiet


def test_a_step_that_fails_has_said_why(settings, capsys):
    assert main(["quickstart", "--prompt", "fails", "-q"]) == 5
    assert capsys.readouterr() == ("", "")


def test_a_wrong_number_of_steps(settings, capsys):
    assert main(["quickstart", "--steps", "0"]) == 2
    assert "--steps must be 1 or more" in capsys.readouterr().err and settings == []


def test_an_input_that_does_not_exist_ends_it_before_any_other_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "nowhere.txt"]) == 2
    err = capsys.readouterr().err
    assert "nowhere.txt" in err and "2/6" not in err and list(tmp_path.iterdir()) == []
