"""The commands tokenizer, preprocess and inspect as a user meets them: outputs, messages, exit codes."""

import json
import subprocess
import sys

import pytest

from gpt2dist import cli
from gpt2dist.commands import preprocess as preprocess_command
from gpt2dist.errors import RunError
from gpt2dist.preprocessing import driver
from gpt2dist.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def gpt2dist(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty directory; returns its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def corpus(tmp_path):
    directory = tmp_path / "corpus"
    directory.mkdir()
    for i in range(40):
        (directory / f"{i:02d}.py").write_text(f"def f{i}(x):\n    return x + {i}\n" * (i + 1))
    return directory


@pytest.fixture
def dataset(gpt2dist, corpus):
    assert (
        gpt2dist("tokenizer", "train", corpus, "--suffix", "py", "--vocab-size", 300, "--output", "tok")[0] == 0
    )
    arguments = [
        "--suffix",
        ".py",
        "--tokenizer",
        "tok",
        "--val-fraction",
        0.2,
        "--workers",
        1,
        "--output",
        "data",
    ]
    code, out, err = gpt2dist("preprocess", corpus, *arguments)
    assert (code, out) == (0, "")
    return err


def test_preprocess_says_what_it_made(gpt2dist, dataset, corpus):
    for part in (
        "documents=",
        "tokens=",
        "train",
        "val",
        "bytes/token",
        "words",
        "documents skipped: none",
        "MB/s with 1 worker",
    ):
        assert part in dataset
    again = ("--suffix", ".py", "--tokenizer", "tok", "--val-fraction", 0.2, "--output", "data")
    code, _, err = gpt2dist("preprocess", corpus, *again)
    assert code == 0 and "nothing to do" in err and "MB/s" not in err


def test_inspect(gpt2dist, dataset, corpus):
    code, out, _ = gpt2dist("inspect", "data", "--verify")
    assert code == 0 and "every shard is as it was written" in out
    code, out, _ = gpt2dist("inspect", "data", "--verify", "--json", "--document", 0)
    result = json.loads(out)
    assert code == 0 and result["verified"]
    assert result["document"]["text"].removesuffix("<|endoftext|>") in {
        path.read_text() for path in corpus.iterdir()
    }
    total = sum(totals["documents"] for totals in result["totals"].values())
    assert total == 40 and result["end_of_text_id"] == 299


def test_inspect_window(gpt2dist, dataset):
    pytest.importorskip("gpt2dist.loading.token_stream")
    window = ("--window", 2, "--sequence-length", 16, "--stride", 4)
    code, out, _ = gpt2dist("inspect", "data", "--json", *window)
    shown = json.loads(out)["window"]
    assert code == 0 and (shown["start"], shown["owned_from"]) == (8, 12)
    code, out, _ = gpt2dist("inspect", "data", *window)
    assert code == 0 and "reads the tokens 8 … 23, owns the targets 21 … 24" in out
    assert shown["context"] in out and shown["owned"] in out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--document", 999], "--document 999: train has documents 0 … "),
        (["--split", "test", "--document", 0], "no split 'test'; it has train, val"),
        (["--window", 0], "--window needs --sequence-length"),
        (["--window", -1, "--sequence-length", 8], "--window -1: train has windows 0 … "),
        (["--window", 0, "--sequence-length", 8, "--stride", 9], "--stride 9: must be between 1 and"),
        (["--window", 0, "--sequence-length", 10**6], "--sequence-length 1000000: train has"),
    ],
)
def test_inspect_refuses(gpt2dist, dataset, options, message):
    code, _, err = gpt2dist("inspect", "data", *options)
    assert code == 2 and message in err


def test_inspect_finds_a_flipped_byte(gpt2dist, dataset, tmp_path):
    path = tmp_path / "data" / "val-00000.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    code, _, err = gpt2dist("inspect", "data", "--verify")
    assert code == 2 and "val-00000.bin: its content differs" in err and "train-00000" not in err


def test_tokenizer_train_again_and_otherwise(gpt2dist, corpus):
    train = ("tokenizer", "train", f"{corpus}/*.py", "--output", "tok")
    assert gpt2dist(*train, "--vocab-size", 280)[0] == 0
    code, _, err = gpt2dist(*train, "--vocab-size", 280)
    assert code == 0 and "nothing to do" in err
    code, _, err = gpt2dist(*train, "--vocab-size", 290)
    assert code == 2 and "contains another tokenizer (vocab_size differ)" in err


def test_tokenizer_char(gpt2dist, corpus):
    code, _, err = gpt2dist("tokenizer", "train", f"{corpus}/*.py", "--kind", "char", "--output", "tok")
    assert code == 0 and "end-of-text '<|endoftext|>'" in err
    assert Tokenizer.load("tok").decode(Tokenizer.load("tok").encode("def f1(x):\n")) == "def f1(x):\n"


def test_tokenizer_train_says_when_the_corpus_is_too_small(gpt2dist, corpus):
    code, _, err = gpt2dist("tokenizer", "train", f"{corpus}/01.py", "--vocab-size", 5000, "--output", "tok")
    assert code == 0 and "the corpus is too small for 5000 tokens; the tokenizer has " in err


@pytest.mark.parametrize(
    "options, message",
    [
        (["corpus/*.py"], "--kind bpe needs --vocab-size"),
        (["corpus/*.py", "--kind", "char", "--vocab-size", 300], "--vocab-size cannot be used with --kind char"),
        (["corpus/*.py", "--vocab-size", 100], "--vocab-size 100: must be at least 257"),
        (["nowhere", "--vocab-size", 300], "nowhere: no such file or directory"),
        (
            ["bad.jsonl", "--vocab-size", 300],
            "1 of 1 documents cannot be read, more than --max-bad-fraction 0.001",
        ),
    ],
)
def test_tokenizer_train_refuses(gpt2dist, corpus, tmp_path, options, message):
    (tmp_path / "bad.jsonl").write_text('{"content": "x"}\n')
    code, _, err = gpt2dist("tokenizer", "train", *options, "--output", "tok")
    assert code == 2 and message in err and not (tmp_path / "tok").exists()


def test_tokenizer_import(gpt2dist, shared_data):
    files = ("--vocab", shared_data / "encoder.json", "--merges", shared_data / "vocab.bpe")
    code, _, err = gpt2dist("tokenizer", "import", *files, "--output", "gpt2")
    assert code == 0 and "50,257 tokens" in err
    assert "nothing to do" in gpt2dist("tokenizer", "import", *files, "--output", "gpt2")[2]


def test_tokenizer_import_refuses_a_missing_file(gpt2dist):
    code, _, err = gpt2dist("tokenizer", "import", "--vocab", "encoder.json", "--merges", "x", "--output", "gpt2")
    assert code == 2 and "--vocab encoder.json: no such file" in err


def test_preprocess_without_a_tokenizer(gpt2dist, corpus):
    code, _, err = gpt2dist("preprocess", corpus, "--tokenizer", "./tok", "--output", "data")
    assert code == 2 and "./tok: not a directory with tokenizer.json" in err and "gpt2dist tokenizer train" in err


def test_preprocess_interrupted_and_worker_died(gpt2dist, dataset, corpus, monkeypatch):
    arguments = ("preprocess", f"{corpus}/*.py", "--tokenizer", "tok", "--workers", 1, "--output", "other")

    def fail(error):
        def raise_error(job, task):
            raise error

        monkeypatch.setattr(driver, "run_task", raise_error)

    fail(KeyboardInterrupt())
    code, _, err = gpt2dist(*arguments)
    assert code == 130
    kept = "finished work is kept in other.partial: run the same command again to resume"
    assert f"gpt2dist preprocess: interrupted; {kept}\n" in err
    fail(RunError("a worker process died"))
    code, _, err = gpt2dist(*arguments)
    assert code == 1 and "a worker process died" in err and "Traceback" not in err


def test_workers_default_to_the_usable_cores(monkeypatch):
    monkeypatch.setattr(preprocess_command.os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert preprocess_command.usable_cores() == 3


@pytest.mark.parametrize("verb", ["preprocess", "inspect", "tokenizer"])
def test_help_imports_nothing_heavy(verb):
    code = (
        f"import sys; from gpt2dist import cli; cli.build_parser({verb!r}).format_help(); "
        "print({'numpy', 'tokenizers', 'torch', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n"
