"""Text from files cannot control a terminal, and reaches pipes and files unchanged."""

import io
import json
import logging
import sys

import pytest

from gpt2dist import cli, terminal
from gpt2dist.monitoring.logs import rank_logging
from gpt2dist.monitoring.progress import Progress, warn
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.tokenizer.tokenizer import train_bpe

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202eevil\u2066\rb\x08\x0b\0"
ESCAPED = "a\\u001b]0;title\\u0007\\u001b[2J\\u009b31m\\u007f\\u202eevil\\u2066\\u000db\\u0008\\u000b\\u0000"
NAME, NAME_ESCAPED = HOSTILE.removesuffix("\0"), ESCAPED.removesuffix("\\u0000")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def open_screen(monkeypatch):
    """Makes both standard streams a terminal, in the test itself since pytest replaces them before it."""

    def open_() -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr(sys, "stdout", shown)
        return shown

    return open_


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile")
    (directory / f"{NAME}.jsonl").write_text(json.dumps({"text": NAME + "\n\tü\r\n"}) + "\n")
    train_bpe(["abc"], 257).save(directory / "tokenizer")
    prepare(PreprocessingJob((str(directory),), str(directory / "tokenizer"), directory / "dataset"))
    return directory / "dataset"


def test_control_characters_are_escaped_and_line_ends_and_tabs_kept():
    assert terminal.printable(HOSTILE) == ESCAPED
    assert (
        terminal.printable("ü 日本 🙂 \u200d עברית\n\ttab\r\nline\n") == "ü 日本 🙂 \u200d עברית\n\ttab\r\nline\n"
    )
    bidirectional = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    assert terminal.printable(bidirectional) == "".join(f"\\u{ord(each):04x}" for each in bidirectional)
    assert terminal.printable("caf\udce9") == "caf\\udce9"
    for number in (*range(32), *range(127, 160)):
        assert (terminal.printable(chr(number)) == chr(number)) == (chr(number) in "\n\t"), number


def test_pipes_and_files_get_the_text_as_it_is(capsys, tmp_path):
    terminal.say(HOSTILE)
    terminal.say(HOSTILE, sys.stdout, end="")
    assert capsys.readouterr() == (HOSTILE, HOSTILE + "\n")


def test_documents_and_their_places(open_screen, dataset, monkeypatch):
    screen = open_screen()
    assert cli.main(["inspect", str(dataset), "--document", "0", "--window", "0", "--sequence-length", "20"]) == 0
    shown = screen.getvalue()
    assert NAME_ESCAPED + "\n\tü\r\n" in shown
    assert f"/{NAME_ESCAPED}.jsonl:1" in shown
    assert shown == terminal.printable(shown)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    cli.main(["inspect", str(dataset), "--document", "0"])
    assert NAME + "\n\tü\r\n" in sys.stdout.getvalue()


def test_json_on_a_terminal_is_still_json(open_screen, dataset):
    screen = open_screen()
    assert cli.main(["inspect", str(dataset), "--document", "0", "--json"]) == 0
    shown = screen.getvalue()
    assert shown == terminal.printable(shown)
    assert json.loads(shown)["document"]["text"].startswith(NAME + "\n\tü\r\n")


def test_strings_of_a_manifest(open_screen, dataset, tmp_path):
    screen = open_screen()
    copy = tmp_path / "copy"
    copy.mkdir()
    content = json.loads((dataset / "manifest.json").read_text())
    content["left_out"] |= {HOSTILE: 1}
    del content["manifest_sha256"]
    (copy / "manifest.json").write_text(json.dumps(content))
    cli.main(["inspect", str(copy)])
    assert "\\u001b]0;title" in screen.getvalue() and screen.getvalue() == terminal.printable(screen.getvalue())


@pytest.mark.parametrize(
    "words",
    [
        ("validate", NAME),
        ("inspect", NAME),
        ("inspect", "a", NAME),  # one name too many: argparse's own error
        ("status", NAME),
        ("preprocess", NAME, "--tokenizer", "x", "--output", "y"),
        ("trace", NAME, "--step", "1"),
    ],
)
def test_error_messages(open_screen, words, tmp_path, monkeypatch):
    screen = open_screen()
    monkeypatch.chdir(tmp_path)
    try:
        assert cli.main(words) == 2
    except SystemExit as error:
        assert error.code == 2
    shown = screen.getvalue()
    assert "\\u001b" in shown or "tokenizer" in shown
    assert shown == terminal.printable(shown)


def test_warnings_logs_and_tracebacks(open_screen, tmp_path):
    screen = open_screen()
    warn(HOSTILE, "verb")
    with rank_logging(tmp_path, 0):
        logging.getLogger("gpt2dist").warning("loading %s", HOSTILE)
    error = ValueError(HOSTILE)
    terminal.show_traceback(ValueError, error, None)
    assert screen.getvalue().splitlines() == [
        f"gpt2dist verb: WARNING: {ESCAPED}",
        f"loading {ESCAPED}",
        f"ValueError: {ESCAPED}",
    ]


def test_the_hook_for_tracebacks_is_set(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    cli.main(["validate", "none.yaml"])
    assert sys.excepthook is terminal.show_traceback


def test_a_progress_bar_still_draws_and_messages_above_it_are_escaped(open_screen):
    screen = open_screen()
    with Progress("read", 10, "B") as progress:
        progress.warn(HOSTILE, "verb")
        progress.advance(10)
    shown = screen.getvalue()
    assert f"gpt2dist verb: WARNING: {ESCAPED}\n" in shown
    assert "\rread: 100%" in shown
