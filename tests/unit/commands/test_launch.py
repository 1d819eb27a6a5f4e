"""What launch passes on, and what it says of ranks that failed."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gpt2dist.cli import main
from gpt2dist.commands.launch import (
    SIGNALS,
    _ranks,
    _run_directory,
    _shutdown_hint,
    describe,
    split,
    with_defaults,
)


def test_the_options_of_torchrun_end_at_the_verb():
    words = ["--nproc-per-node", "2", "train", "run.yaml", "--help"]
    assert split(words) == (["--nproc-per-node", "2"], ["train", "run.yaml", "--help"])


def test_quiet_before_the_verb_is_the_verbs_option():
    assert split(["-q", "--nnodes", "2", "train", "a"]) == (["--nnodes", "2"], ["train", "-q", "a"])


def test_a_launch_of_nothing_is_wrong_input(capsys):
    assert main(["launch", "--nproc-per-node", "2", "generate", "x"]) == 2
    verbs = "check, train, evaluate, lambada, multiple-choice, verify-resume"
    expected = f"no verb to launch; write one of {verbs} after torchrun's options\n"
    assert capsys.readouterr().err == f"gpt2dist launch: {expected}"


def test_what_is_left_open_gets_a_default_and_what_is_given_stays():
    signals = ["--signals-to-handle", SIGNALS]
    alone = ["--standalone", "--local-addr", "localhost"]  # the host's own name may not resolve
    assert with_defaults([], gpus=4) == ["--nproc-per-node", "4", *alone, *signals]
    assert with_defaults(["--local-addr", "a"], gpus=4)[2:] == ["--nproc-per-node", "4", "--standalone", *signals]
    assert with_defaults([], gpus=0)[:2] == ["--nproc-per-node", "1"]
    given = ["--nproc_per_node=2", "--nnodes", "2", "--rdzv-endpoint", "a:1"]
    assert with_defaults(given, gpus=4) == [*given, "--signals-to-handle", SIGNALS]


def failure(tmp_path: Path, exitcode: int, message: str = "", at: int = 100) -> ProcessFailure:
    file = tmp_path / f"error-{exitcode}-{at}.json"
    if message:
        file.write_text(json.dumps({"message": {"message": message, "extraInfo": {"timestamp": str(at)}}}))
    return ProcessFailure(0, 1, exitcode, str(file))


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "SIGKILL (-9), probably out of memory (see dmesg)"),
        (signal.SIGBUS, "SIGBUS (-7), probably /dev/shm is full"),
        (signal.SIGSEGV, "SIGSEGV (-11), a crash in native code"),
        (signal.SIGFPE, "SIGFPE (-8), a signal"),
    ],
)
def test_a_signal_is_decoded(tmp_path, number, cause):
    text = describe({3: failure(tmp_path, -number)}, Path("runs/x"))
    assert text.startswith(f"rank 3 failed first: {cause}")
    assert "\n  its log: runs/x/logs/rank-00003.log\n" in text
    assert "ranks that ended" not in text


def test_only_a_run_is_said_to_resume(tmp_path):
    killed = {0: failure(tmp_path, -signal.SIGKILL)}
    assert describe(killed, Path("runs/x")).endswith(
        "start the run again to resume from its newest complete checkpoint"
    )
    assert describe(killed, None).endswith("start it again; results are written only once all ranks are done")


def test_the_rank_that_was_killed_is_named_and_not_those_that_lost_it(tmp_path):
    lost = failure(tmp_path, 1, "PeerLostError: … Connection closed by peer [10.0.0.1]:999", at=50)
    ended = failure(tmp_path, -signal.SIGTERM)
    text = describe({0: lost, 1: ended, 2: failure(tmp_path, -signal.SIGKILL)}, None)
    assert text.startswith("rank 2 failed first: SIGKILL")
    assert "\n  ranks that ended because of it: 0, 1\n" in text


def test_where_all_ranks_of_a_host_only_lost_another_one_the_others_are_pointed_to(tmp_path):
    lost = failure(tmp_path, 1, "PeerLostError: Read error [10.0.0.2]:9: Connection reset by peer", at=50)
    told = describe({0: lost}, None)
    assert told.startswith("rank 0 failed first: exit code 1: PeerLostError: Read error")
    assert "another rank failed first: killed" in told and "; see the logs on the other hosts\n" in told
    assert "other hosts" not in describe({0: lost, 1: failure(tmp_path, -signal.SIGKILL)}, None)


def test_the_rank_with_an_error_of_its_own_is_named_with_it(tmp_path):
    lost = failure(tmp_path, 1, "PeerLostError: Connection reset by peer", at=50)
    own = failure(tmp_path, 1, "ValueError: three\nmore", at=60)
    text = describe({0: lost, 1: own}, None)
    assert text.startswith("rank 1 failed first: exit code 1: ValueError: three\n")


def test_the_ranks_are_known_unless_torchrun_finds_them_out():
    assert _ranks("1:1", "8") == _ranks("1", "8") == 8
    assert _ranks("1:4", "8") is None and _ranks("1", "gpu") is None
    assert (
        _ranks("2", "4") is None
    )  # the ranks check together: a launcher that refuses alone leaves others waiting


def test_a_wrong_configuration_is_told_before_ranks_start(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("modle: {}")
    assert main(["launch", "--nproc-per-node", "2", "train", str(tmp_path / "run.yaml"), "batch.x=1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("gpt2dist launch: ") and "modle: unknown key; did you mean model?" in told


@pytest.mark.parametrize(("verb", "logs"), [("train", "out"), ("verify-resume", "out/verify-resume")])
def test_the_log_is_looked_for_where_the_verb_writes_it(tmp_path, make_dataset, verb, logs):
    run = tmp_path / "run.yaml"
    run.write_text(
        f"data: {{train: [{{path: {make_dataset(train=[5000], val=[90])}}}], sequence_length: 16}}\n"
        "model: {n_layer: 1, n_head: 1, n_embd: 8, context_length: 16}\nschedule: {total_steps: 9}\n"
    )
    words = [verb, str(run), f"run.output_dir={tmp_path}/out"]
    assert _run_directory(words, 1) == tmp_path / logs


@pytest.mark.parametrize(
    ("options", "hint"), [("--shutdown-timeout N", ""), ("--nnodes N", "; torchrun of this")]
)
def test_a_torchrun_that_does_not_wait_is_named(options, hint):
    """That of torch 2.11 kills ranks that have not saved within 30 seconds."""
    torchrun = SimpleNamespace(get_args_parser=lambda: SimpleNamespace(format_help=lambda: options))
    assert _shutdown_hint(torchrun).startswith(hint) and bool(_shutdown_hint(torchrun)) == bool(hint)


@pytest.mark.parametrize(
    ("words", "codes", "expected", "silent"),
    [
        (["check"], [1, 1], 1, True),  # the ranks have printed what is wrong
        (["check"], [1, -signal.SIGTERM], 1, True),
        (["check"], [2, 2], 2, True),
        (["check"], [1, -signal.SIGKILL], 1, False),
        (["lambada", "m", "--data", "d"], [1, 1], 1, False),
        (["lambada", "m", "--data", "d"], [2, 2], 2, True),
    ],
)
def test_what_ranks_have_explained_is_not_told_again(
    tmp_path, monkeypatch, capsys, words, codes, expected, silent
):
    failures = {rank: failure(tmp_path, code) for rank, code in enumerate(codes)}

    def fail(settings):
        raise ChildFailedError("gpt2dist", failures)

    monkeypatch.setattr("torch.distributed.run.run", fail)
    assert main(["launch", "--nproc-per-node", "2", *words]) == expected
    assert (capsys.readouterr().err == "") == silent
