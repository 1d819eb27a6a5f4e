"""A small dataset, run and exported model; the verbs that read their files; and damage to one of these files."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gpt2dist import cli
from gpt2dist.atomic_io import sha256_of
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.run import end_markers, metrics_file, submissions
from tests.support.mutations import PLACES, Mutation, draw_mutation
from tests.support.runs import SMALL_RUN

SECONDS = 30
"""Seconds after which a verb counts as hanging; the longest takes two."""
NEWEST = "run/checkpoints/step-00000004"
PREPROCESS = (
    "preprocess corpus.jsonl --tokenizer dataset --output prepared --val-fraction 0.1 --max-bad-fraction 0.1"
)
VERBS = {
    "inspect": "inspect dataset --json",
    "verify": "inspect dataset --verify --document 1 --window 2 --sequence-length 16 --json",
    "validate": "validate run.yaml --json",
    "validate-from": "validate from.yaml --json",
    "trace": "trace run --step 2 --json",
    "evaluate": "evaluate run --data dataset --stride 16 --json",
    "evaluate-model": "evaluate model --data dataset --stride 16 --json",
    "evaluate-all": "evaluate run --data dataset --stride 16 --all-checkpoints --name known",
    "generate": "generate run --max-new-tokens 4 --temperature 0 --json",
    "generate-model": "generate model --max-new-tokens 4 --temperature 0 --json",
    "export": "export run --output exported --results result.json",
    "status": "status run --json",
    "status-all": "status .",
    "report": "report run --output report.html",
    "train": "train run.yaml",
    "preprocess": f"{PREPROCESS} --finish",
    "tokenizer": "tokenizer train words.txt --kind char --output characters",
}
VOLATILE = {
    "seconds",
    "tokens_per_second",
    "age",
    "silent",
    "seconds_left",
    "time",
    "disk_free",
    "expected_hours",
}
"""Keys of results that differ from time to time."""
CHECKPOINT = ("evaluate", "generate", "export", "train", "status", "report")
MODEL = ("evaluate-model", "generate-model", "validate-from")
DATASET = ("inspect", "verify", "validate", "trace", "evaluate", "train")
SHOWN = ("status", "status-all", "report", "train")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        pattern: Its path, or a glob, below the directory of `make_home`.
        verbs: Names of the verbs that read it.
        seal: Updates hashes elsewhere, so that the damage does not show in them; None if nothing has its hash.
        protected: Whether a hash shows every change to these verbs: "all", or their names.
    """

    pattern: str
    verbs: tuple[str, ...]
    seal: Callable[[Path, Path], None] | None = None
    protected: tuple[str, ...] = ()


def seal_checkpoint(home: Path, path: Path) -> None:
    """Write the size and hash of a changed file of a checkpoint into its manifest."""
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest.write_text(json.dumps(content))


def seal_dataset(home: Path, path: Path) -> None:
    """Write the hash of a changed file of the dataset into its manifest, and make that one whole again."""
    manifest = home / "dataset/manifest.json"
    content = json.loads(manifest.read_bytes())
    if path != manifest:
        name, _, kind = path.name.rpartition(".")
        if path.name in content["listings"]:
            content["listings"][path.name] = sha256_of(path)
        for record in content["shards"]:
            if record["name"] == name:
                record["sha256"][kind] = sha256_of(path)
    hashes = [
        [record["name"], record["sha256"]["bin"], record["sha256"].get("idx")] for record in content["shards"]
    ]
    text = json.dumps([content["tokenizer_fingerprint"], hashes])
    content["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    if content.pop("manifest_sha256", None) is not None:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(content))


KINDS = (
    Kind("dataset/manifest.json", DATASET, seal_dataset),
    Kind("dataset/train-00000.idx", ("verify", "trace", "evaluate", "train"), seal_dataset, ("verify",)),
    Kind("dataset/val-00000.bin", ("verify", "evaluate"), seal_dataset, ("verify",)),
    Kind("dataset/train-00000.bin", ("verify", "train"), seal_dataset, ("verify",)),
    Kind("dataset/train-00000.origins", ("verify", "trace"), seal_dataset, ("verify",)),
    Kind("dataset/pieces.jsonl", ("verify", "trace"), seal_dataset, ("verify",)),
    Kind("dataset/tokenizer*.json", ("verify", "train", "validate-from")),
    Kind(f"{NEWEST}/manifest.json", CHECKPOINT),
    Kind(f"{NEWEST}/trainer_state.json", CHECKPOINT, seal_checkpoint, CHECKPOINT),
    Kind(f"{NEWEST}/*config.json", CHECKPOINT, seal_checkpoint, CHECKPOINT),
    Kind(f"{NEWEST}/*.index.json", CHECKPOINT, seal_checkpoint, CHECKPOINT),
    Kind(f"{NEWEST}/tokenizer*.json", CHECKPOINT, seal_checkpoint, CHECKPOINT),
    Kind(f"{NEWEST}/model-*.safetensors", CHECKPOINT, seal_checkpoint, CHECKPOINT),
    Kind(f"{NEWEST}/optimizer-*.safetensors", ("train", "evaluate"), seal_checkpoint, CHECKPOINT),
    Kind("run/checkpoints/latest", CHECKPOINT),
    Kind("run/config.yaml", ("trace", "status", "report", "export")),
    Kind("run/environment.json", ("trace", "export", *SHOWN)),
    Kind("run/starts/*/*", ("export", *SHOWN)),
    Kind("run/metrics.jsonl", ("validate", *SHOWN)),
    Kind("run/eval/step-*.json", ("export", "status", "report")),
    Kind("run/eval/known/step-*.json", ("evaluate-all", "export", "status", "report")),
    Kind("run/[fs]*ed.json", SHOWN),
    Kind("run/lock", SHOWN),
    Kind("run/on_commit.jsonl", ("status", "train")),
    Kind("run/submission/001/submission.json", SHOWN),
    Kind("result.json", ("export",)),
    Kind("run.yaml", ("validate",)),
    Kind("model/config.json", MODEL),
    Kind("model/generation_config.json", MODEL),
    Kind("model/tokenizer*.json", MODEL),
    Kind("model/model.safetensors", MODEL),
    Kind("prepared.partial/*.json*", ("preprocess",)),
    Kind("prepared.partial/tasks/00000/*.json*", ("preprocess",)),
    Kind("characters/tokenizer_origin.json", ("tokenizer",)),
)


# --- What is damaged --------------------------------------------------------------------------------------


def make_home(home: Path, dataset: Path) -> None:
    """Make the files in an empty directory, on one rank. Paths in them are relative to it."""
    # DeepSpeed keeps its process groups, so all trainings in this process must have the same.
    torch.distributed.destroy_process_group = lambda: None  # type: ignore[assignment]
    os.chdir(home)
    shutil.copytree(dataset, "dataset")
    config: dict[str, Any] = json.loads(json.dumps(SMALL_RUN))
    config["model"] |= {"n_embd": 16, "n_head": 2}
    config["data"] |= {"train": [{"path": "dataset"}], "validation": [{"name": "val", "path": "dataset"}]}
    config["schedule"] |= {"total_steps": 6, "warmup_steps": 2}
    config |= {"run": {"output_dir": "run"}, "evaluation": {"every_steps": 4}}
    config["checkpoint"] = {"every_steps": 2, "on_commit": "tests.support.uploads:upload"}
    config["stability"] = {"spike_sigma": 6.0}
    config["monitoring"]["samples"] = {"prompts": ["a"], "every_steps": 4, "max_new_tokens": 4}
    Path("run.yaml").write_text(yaml.safe_dump(config))
    run_or_fail("train run.yaml run.stop_after_steps=4 checkpoint.keep_last=2")
    run_or_fail("evaluate run --data dataset --stride 16 --all-checkpoints --name known")
    run_or_fail("evaluate run --data dataset --stride 16 --output result.json")
    run_or_fail("export run --output model")
    config["model"] = {"init_from": "model"}
    Path("from.yaml").write_text(yaml.safe_dump(config | {"run": {"output_dir": "other"}}))
    end_markers.write_stopped(Path("run"), "SIGTERM", 4, 6)
    end_markers.write_failed(Path("run"), 0, ValueError("a reason"))
    record = submissions.make_directory(Path("run/submission"))
    submissions.write(record, {"job.sh": "#!/bin/sh\n"}, None, {"job": "train"})
    submissions.record_submission(record, "local", [1])
    texts = [{"text": f"document {number} " * 20} for number in range(20)] + [{"page": "no text"}]
    Path("corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts))
    Path("words.txt").write_text("some words")
    run_or_fail("tokenizer train words.txt --kind char --output characters")
    run_or_fail(f"{PREPROCESS} --task-index 0 --task-count 1")


def run_or_fail(words: str) -> None:
    code, _, err = call(words)
    assert code == 0, f"{words}: {err}"


class HangError(BaseException):
    """A verb took too long."""


def call(words: str) -> tuple[int | str, str, str]:
    """Run a verb in this process; return its exit code, or the traceback if it raised, and what it printed."""

    def hang(*_: object) -> None:
        raise HangError

    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: int | str = cli.main(words.split())
    except SystemExit as ended:
        code = f"SystemExit {ended.code}"
    except BaseException:
        code = traceback.format_exc()
    finally:
        signal.alarm(0)
    return code, out.getvalue(), err.getvalue()


# --- What the verbs give ----------------------------------------------------------------------------------


def result_of(verb: str, home: Path, out: str) -> Any:
    """Return what a verb that succeeded gave, without what differs from time to time."""
    if verb == "train":
        lines = metrics_file.read(home / "run/metrics.jsonl")
        return {str(line["step"]): line.get("train/loss") for line in lines if line["step"] in (5, 6)}
    if verb == "export":
        return [
            _tensors(home / "exported/model.safetensors"),
            (home / "exported/README.md").read_text().splitlines(),
        ]
    if verb == "preprocess":
        return [Manifest.load(home / "prepared").fingerprint, (home / "prepared/rejected.jsonl").read_text()]
    try:
        return _stable(json.loads(out))
    except ValueError:
        return [_stable(json.loads(line)) if line.startswith("{") else line for line in out.splitlines()]


def _tensors(path: Path) -> list[Any]:
    """Return the header and a hash of the data of a safetensors file; the order of the metadata varies."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return [json.loads(content[8:end]), hashlib.sha256(content[end:]).hexdigest()]


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, str):
        return re.sub(r"[\d:]+ (s|min|h) ago", "", value)
    return [_stable(item) for item in value] if isinstance(value, list) else value


def difference(found: Any, expected: Any) -> str:
    """Return the first difference between two results that is not rounding; empty if there is none."""
    if isinstance(found, float) and isinstance(expected, float):
        near = abs(found - expected) <= 1e-6 * max(abs(found), abs(expected))
        return "" if near else f"{found} instead of {expected}"
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        pairs: Any = ((str(key), found[key], expected[key]) for key in found)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(map(str, range(len(found))), found, expected, strict=True)
    else:
        return "" if found == expected else f"{str(found)[:200]} instead of {str(expected)[:200]}"
    return next((f"{key}: {what}" for key, one, other in pairs if (what := difference(one, other))), "")


# --- Damage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One mutation of one file, and the verbs to run after it."""

    path: str
    kind: Kind
    mutation: Mutation
    sealed: bool
    verbs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}: {self.mutation.name}{', sealed' if self.sealed else ''}"


def draw_case(draw: random.Random, home: Path, verbs: int) -> Case:
    """Draw a case; at most `verbs` of those that read the file."""
    kind = draw.choice(KINDS)
    path = draw.choice(sorted(home.glob(kind.pattern)))
    mutation = draw_mutation(draw, path)
    while path.name == "run.yaml" and "FIFO" in mutation.name:  # a configuration may also be a pipe
        mutation = draw_mutation(draw, path)
    sealed = kind.seal is not None and draw.random() < 0.6 and mutation not in PLACES
    chosen = draw.sample(kind.verbs, min(verbs, len(kind.verbs)))
    return Case(str(path.relative_to(home)), kind, mutation, sealed, tuple(chosen))


def faults_of(case: Case, pristine: Path, home: Path, expected: Callable[[str], Any]) -> Iterator[str]:
    """Yield what is wrong with how the verbs take a case: nothing if each refuses it, or gives what it should."""
    for verb in case.verbs:
        restore(pristine, home)
        path = home / case.path
        case.mutation.apply(path)
        if case.sealed:
            with contextlib.suppress(
                OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError
            ):
                assert case.kind.seal
                case.kind.seal(home, path)
        began = time.monotonic()
        code, out, err = call(VERBS[verb])
        fault = _fault(case, verb, home, code, out, err, expected)
        if fault:
            yield f"{case}\n  {VERBS[verb]}: {fault} ({time.monotonic() - began:.1f} s)"


def restore(pristine: Path, home: Path) -> None:
    """Make `home` equal to `pristine` again."""
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(pristine, home, dirs_exist_ok=True)


def _fault(
    case: Case, verb: str, home: Path, code: int | str, out: str, err: str, expected: Callable[[str], Any]
) -> str:
    if code not in (0, 1, 2):
        return str(code)
    if "Traceback" in err:
        return f"a traceback: {err}"
    if code:
        progress = sum(err.count(text) for text in (" checking ", " reading ", " was listed at "))
        messages = err.count(f"gpt2dist {VERBS[verb].split()[0]}: ") - progress
        names = (
            Path(case.path).name in err or str(Path(case.path).parent) in err or case.path.split("/")[0] in err
        )
        return "" if messages == 1 and names else f"exit {code}, {messages} messages: {err}"
    if case.path == "dataset/manifest.json" and not case.sealed and _is_other_manifest(home):
        return "a changed manifest was accepted"
    found = result_of(verb, home, out)  # also where it may differ, since it must be well formed
    # A dataset with other hashes has another fingerprint.
    resealed = {"data", "fingerprint", "sha256", "listings"} if case.sealed and "dataset" in case.path else set()
    different = difference(_without(found, resealed), _without(expected(verb), resealed))
    if not different or verb in ("status", "status-all", "report"):  # they pass over what is damaged
        return ""
    protected = verb in case.kind.protected and not case.sealed
    shown = case.path in ("result.json", "run.yaml")
    shown |= case.path.startswith("run/") and "checkpoints" not in case.path
    shown |= case.path == "dataset/manifest.json" and case.sealed  # with the right hash, it is what it says
    if (case.mutation.changes_value or shown) and not protected:
        return ""
    return f"another result: {different}"


def _is_other_manifest(home: Path) -> bool:
    """Return whether the dataset's manifest has its hash and another content: its hash must show that."""
    paths = (each / "dataset/manifest.json" for each in (home, home.parent / "pristine"))
    content, before = (json.dumps(json.loads(path.read_bytes()), sort_keys=True) for path in paths)
    return '"manifest_sha256": ' in content and content != before
