import io
import re
import subprocess
import sys

import pytest

from gpt2dist import __version__, cli
from gpt2dist.errors import UserError

HEAVY = (
    "torch",
    "transformers",
    "deepspeed",
    "numpy",
    "datasets",
    "tokenizers",
    "pydantic",
    "yaml",
    "tensorboard",
)


def gpt2dist(*words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-m", "gpt2dist", *words], capture_output=True, text=True)


def imported(importtime: str) -> set[str]:
    """The top-level packages in what `python -X importtime` printed."""
    return {name.split(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", importtime, re.MULTILINE)}


@pytest.mark.parametrize("words", [(), *((verb,) for verb in cli.VERBS)], ids=" ".join)
def test_help_is_there_and_imports_nothing_heavy(words):
    done = gpt2dist(*words, "--help", flags=("-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: gpt2dist {' '.join(words)}".rstrip())
    assert "gpt2dist" in imported(done.stderr)
    assert imported(done.stderr) & set(HEAVY) == set()


@pytest.mark.parametrize("words", [(), *((verb,) for verb in cli.VERBS)], ids=" ".join)
def test_help_in_a_locale_that_has_only_ascii(words, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words, "--help"])
    sys.stdout.flush()
    assert exit_.value.code == 0
    assert raw.getvalue().startswith(b"usage: gpt2dist")
    assert b"\\u" not in raw.getvalue(), "each character of ours has a plain form"


def test_results_and_messages_in_a_locale_that_has_only_ascii(tmp_path, monkeypatch):
    def run(args):
        print("Σ nll 3 – 4 × 5 … café")
        raise UserError("naïve → é")

    streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr("gpt2dist.commands.validate.run", run)
    assert cli.main(["validate", "run.yaml"]) == 2
    written = {}
    for name, stream in streams.items():
        stream.flush()
        written[name] = stream.buffer.getvalue()
    assert written == {
        "stdout": b"sum nll 3 - 4 x 5 ... caf\\xe9\n",
        "stderr": b"gpt2dist validate: na\\xefve -> \\xe9\n",
    }


@pytest.mark.parametrize("verb", ["validate", "train", "verify-resume"])
def test_a_mistake_in_a_configuration_is_told_before_torch_is_imported(tmp_path, verb):
    (tmp_path / "run.yaml").write_text("run: {name: x}")
    done = gpt2dist(verb, str(tmp_path / "run.yaml"), flags=("-X", "importtime"))
    assert done.returncode == 2
    assert "yaml" in imported(done.stderr)
    assert imported(done.stderr) & {"torch", "transformers", "deepspeed", "datasets", "tokenizers"} == set()


def test_a_key_is_explained_without_importing_anything_heavy():
    done = gpt2dist("config", "optimizer.lr", flags=("-X", "importtime"))
    assert done.returncode == 0
    assert imported(done.stderr) & set(HEAVY) == {"pydantic", "yaml"}


def test_every_verb_is_listed_with_what_it_does():
    text = gpt2dist("--help").stdout
    for verb, summary in cli.VERBS.items():
        assert re.search(rf"^ +{verb}\s+{re.escape(summary.split()[0])}", text, re.MULTILINE)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"gpt2dist {__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["trane"], "invalid choice: 'trane'"),
        (["validate"], "the following arguments are required: CONFIG"),
        (["validate", "run.yaml", "--wrold-size", "2"], "unrecognized arguments: --wrold-size"),
        (["inspect", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_input_is_one_message_without_a_traceback(tmp_path):
    missing = tmp_path / "none.yaml"
    done = gpt2dist("validate", str(missing))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gpt2dist validate: {missing}: No such file or directory; give the path of a YAML run file\n"
    )


@pytest.mark.parametrize(
    ("result", "code"),
    [(None, 0), (0, 0), (1, 1), (UserError("lr: wrong"), 2), (KeyboardInterrupt(), 130), (BrokenPipeError(), 0)],
)
def test_exit_codes(monkeypatch, result, code):
    def run(args):
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr("gpt2dist.commands.validate.run", run)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # a broken pipe closes it
    assert cli.main(["validate", "run.yaml"]) == code


def test_a_bug_shows_its_traceback(monkeypatch):
    def run(args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gpt2dist.commands.validate.run", run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["validate", "run.yaml"])


@pytest.mark.parametrize(
    "words",
    [
        ["run.yaml", "a.b=1", "c.d=2", "--world-size", "3"],
        ["run.yaml", "--world-size", "3", "a.b=1", "c.d=2"],
        ["run.yaml", "a.b=1", "--world-size", "3", "c.d=2"],
        ["--world-size", "3", "run.yaml", "a.b=1", "c.d=2"],
    ],
)
def test_overrides_may_stand_before_and_behind_options(monkeypatch, words):
    seen = []
    monkeypatch.setattr("gpt2dist.commands.validate.run", seen.append)
    assert cli.main(["validate", *words]) == 0
    assert (str(seen[0].config), seen[0].overrides, seen[0].world_size) == ("run.yaml", ["a.b=1", "c.d=2"], 3)


@pytest.mark.parametrize(
    ("kind", "rank", "told"),
    [
        *(("UserError", "0", True), ("UserError", "1", False), ("RankUserError", "1", True)),
        *(("RunError", "0", True), ("RunError", "1", False), ("RankRunError", "1", True)),
    ],
)
def test_one_rank_tells_what_all_find_and_each_what_it_alone_sees(monkeypatch, capsys, kind, rank, told):
    import gpt2dist.commands.validate
    from gpt2dist import cli, errors

    def fail(args):
        raise getattr(errors, kind)("the reason")

    monkeypatch.setattr(gpt2dist.commands.validate, "run", fail)
    waited = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", rank)
    assert cli.main(["validate", "x.yaml"]) == (1 if kind.endswith("RunError") else 2)
    assert ("the reason" in capsys.readouterr().err) == told
    assert waited == ([] if told else [cli.SECONDS_TO_REPORT])  # else the launcher might kill rank 0
