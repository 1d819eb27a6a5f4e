"""The record of a run's starts, and what each changed."""

import json
import os

import pytest

from gpt2dist import atomic_io
from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.run import starts
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.starts import Change, Start

FACTS = {
    "world_size": 2,
    "gpt2dist": "0.1",
    "packages": {"torch": "2.5", "numpy": "2.0"},
    "gpu": None,
    "host": "a",
}


def config_of(**sections):
    """A resolved configuration, which always has a name."""
    return Config.model_validate_json(json.dumps({"run": {"name": "x"}} | sections))


def start(run, config, facts=FACTS, step=0):
    """What a start does; returns what it says."""
    changes = starts.changes_since(starts.last(run), config, facts)
    starts.record(run, config, facts, step, changes)
    return [str(change) for change in changes]


def test_each_start_is_kept_and_says_what_it_changed(tmp_path):
    assert start(tmp_path, config_of(optimizer={"lr": 5e-4})) == []
    assert start(tmp_path, config_of(optimizer={"lr": 5e-4}), step=10) == []
    facts = FACTS | {"world_size": 4, "packages": {"torch": "2.6", "numpy": "2.0"}, "gpu": "H100", "host": "b"}
    assert start(tmp_path, config_of(optimizer={"lr": 1e-3}), facts, step=20) == [
        "optimizer.lr 5e-4 → 1e-3",
        "world_size 2 → 4",
        "packages.torch 2.5 → 2.6",
        "gpu not set → H100",
    ]
    assert sorted(path.name for path in (tmp_path / "starts").iterdir()) == ["001", "002", "003"]
    assert "lr: 0.0005" in (tmp_path / "starts/002/config.yaml").read_text()
    assert json.loads((tmp_path / "starts/003/environment.json").read_text()).items() >= facts.items()
    third = starts.read(tmp_path, 3)
    assert (third.number, third.step, third.world_size) == (3, 20, 4) and third.time > 1.7e9
    assert third.changes[0] == Change("optimizer.lr", 5e-4, 1e-3) and len(third.changes) == 4
    assert starts.read(tmp_path, 2).changes == ()


def test_what_changes_the_training_comes_first_and_keys_are_those_of_overrides(tmp_path):
    data = [{"path": "a", "weight": 0.0113}]
    before = {
        "run": {"name": "x"},
        "data": {"train": data, "stride": 5},
        "monitoring": {"profile": {"start": 5}},
        "zero": {"deepspeed": {"zero_optimization": {"reduce_bucket_size": 7}}},
    }
    now = {
        "run": {"name": "x", "output_dir": "else\x1b[0mwhere"},
        "data": {"train": [{"path": "a", "weight": 2.0}], "validation": [{"path": "b"}]},
        "optimizer": {"betas": [0.9, 0.99]},
        "checkpoint": {"asynchronous": False},
        "precision": "bf16",
    }
    start(tmp_path, config_of(**before))
    assert start(tmp_path, config_of(**now)) == [
        "data.train.0.weight 0.0113 → 2.0",
        "data.validation.0.name not set → val",
        "data.validation.0.path not set → b",
        "data.stride 5 → not set",
        "optimizer.betas.1 0.95 → 0.99",
        "precision fp32 → bf16",
        "zero.deepspeed.zero_optimization.reduce_bucket_size 7 → not set",
        "run.output_dir not set → 'else\\x1b[0mwhere'",
        "checkpoint.asynchronous true → false",
        "monitoring.profile.start 5 → not set",
        "monitoring.profile.steps 3 → not set",
    ]


def test_a_run_of_version_0_1_has_only_its_last_start(tmp_path):
    run = RunDirectory(tmp_path)
    atomic_io.write_text(run.config, "run: {name: x}\noptimizer: {lr: 2.0e-3}\nolder: {key: 5}\n")
    atomic_io.write_json(run.environment, {"world_size": 8, "total_steps": 30})
    assert starts.numbers(tmp_path) == [] and starts.last(tmp_path) == run
    assert start(tmp_path, config_of()) == ["optimizer.lr 2e-3 → 6e-4", "world_size 8 → 2"]
    assert starts.numbers(tmp_path) == [1]


def test_after_a_thousand_starts_only_the_newest_is_read(tmp_path):
    for number in range(1, 1001):
        RunDirectory(tmp_path).start(number).path.mkdir(parents=True)  # none of them can be read
    (tmp_path / "starts/notes.txt").touch()
    start(tmp_path, config_of())
    assert starts.numbers(tmp_path)[-1] == 1001
    assert start(tmp_path, config_of(optimizer={"eps": 1e-6})) == ["optimizer.eps 1e-8 → 1e-6"]
    assert starts.last(tmp_path).path == tmp_path / "starts/1002"


def test_a_last_start_that_cannot_be_read_is_named(tmp_path):
    start(tmp_path, config_of())
    (tmp_path / "starts/001/config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"starts/001/config\.yaml: not valid YAML"):
        starts.changes_since(starts.last(tmp_path), config_of(), FACTS)
    (tmp_path / "starts/001/config.yaml").unlink()
    assert start(tmp_path, config_of(optimizer={"lr": 1.0})) == []


@pytest.mark.parametrize("place", ["config.yaml", "environment.json", "003"])
def test_a_record_appears_as_a_whole_or_not_at_all(tmp_path, monkeypatch, place):
    start(tmp_path, config_of())
    start(tmp_path, config_of())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(inner, index):
        def write(*arguments):
            if arguments[index].name == place:
                raise OSError(28, "No space left on device", str(arguments[index]))
            inner(*arguments)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io, "write_text", full(atomic_io.write_text, 0))
        patch.setattr(atomic_io, "rename_directory", full(atomic_io.rename_directory, 1))
        with pytest.raises(OSError, match="No space left"):
            start(tmp_path, config_of())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "starts/003.partial").mkdir()  # of a start that was killed there
    (tmp_path / "starts/003.partial/config.yaml").write_text("half")
    start(tmp_path, config_of())
    assert sorted(path.name for path in (tmp_path / "starts").iterdir()) == ["001", "002", "003"]


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, "{}", '{"time": 1e300, "step": "x", "changed": {"a": 1, "b": [2]}}']
)
def test_a_damaged_record_is_unknown(tmp_path, content):
    path = RunDirectory(tmp_path).start(1).environment
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert starts.read(tmp_path, 1) == Start(1, None, None, None, ())


def test_a_configuration_that_is_no_file_is_not_opened(tmp_path):
    start(tmp_path, config_of())
    path = tmp_path / "starts/001/config.yaml"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"starts/001/config\.yaml: not a regular file"):
        starts.changes_since(starts.last(tmp_path), config_of(), FACTS)


def test_the_origin_is_kept_by_either_of_two_files(tmp_path):
    environment = tmp_path / "environment.json"
    assert starts.recorded_origin(tmp_path) == {}
    environment.write_text("{")
    with pytest.raises(UserError, match=r"environment\.json: not JSON: .*; move it away; the run then loses"):
        starts.recorded_origin(tmp_path)
    start(tmp_path, config_of(), FACTS | {"init_from": {"path": "gpt2"}})
    assert starts.recorded_origin(tmp_path) == {"path": "gpt2"}
    environment.write_text(json.dumps({"init_from": {"path": "other"}}))
    assert starts.recorded_origin(tmp_path) == {"path": "other"}
