"""What a finished task left, read back."""

import json

import pytest

from gpt2dist.corpus import Piece
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.tasks import (
    PreprocessingJob,
    Task,
    load_filtered,
    load_rejections,
    load_replaced_examples,
    load_result,
)

EXAMPLE = {"piece": 7, "line": 3, "offset": 0, "excerpt": "caf\ufffd"}
REJECTED = {"piece": 7, "line": 1, "lines": 2, "offset": 0, "bytes": 9, "reason": "not JSON"}


def shard(**changes):
    known = {"name": "train-00000", "split": "train", "tokens": 9, "documents": 2, "bytes": 30, "words": 6}
    return known | {"sha256": {"bin": "b", "idx": "i", "origins": "o"}} | changes


@pytest.fixture
def task(tmp_path):
    """The second task of a job, with two pieces, and its folder; it has repaired a document and rejected two."""
    job = PreprocessingJob(("a.jsonl",), "tokenizer", tmp_path / "out")
    task = Task(1, 7, (Piece("a.jsonl", "jsonl", "", 0, 99, 99), Piece("b.jsonl", "jsonl", "", 0, 9, 9)))
    folder = job.build / "tasks/00001"
    folder.mkdir(parents=True)
    done = {
        "shards": [shard()],
        "left_out": {"rejected": 2},
        "repaired": 1,
        "lines": [5, 3],
        "examples": [EXAMPLE],
    }
    (folder / "done.json").write_text(json.dumps(done))
    (folder / "rejected.jsonl").write_text(json.dumps(REJECTED) + "\n")
    return job, task, folder


def change(folder, **changes):
    path = folder / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_written_is_read(task):
    job, task, folder = task
    result = load_result(folder)
    assert (result.documents, result.seen, result.lines) == (2, 4, (5, 3))
    assert list(load_rejections(job, task)) == [REJECTED]
    assert [example.excerpt for example in load_replaced_examples(job, task)] == ["caf\ufffd"]
    (folder / "done.json").unlink()
    assert load_result(folder) is None and list(load_replaced_examples(job, task)) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"repaired": "1"}, "repaired is '1', not a whole number"),
        ({"lines": 5}, "lines is 5, not a list"),
        ({"left_out": {}}, "left_out.rejected is missing"),
        ({"examples": []}, "examples is empty, and documents were repaired"),
        ({"shards": [shard(words=-1)]}, "'train-00000': words: should be a whole number of at least 0, not -1"),
        (
            {"shards": [shard(sha256={"bin": "b"})]},
            "train-00000 lacks one of sha256.bin, sha256.idx and sha256.",
        ),
        (
            {"shards": [shard(name="../a")]},
            "'../a': name: '../a' is not the name of a shard of the split 'train'",
        ),
    ],
)
def test_a_marker_that_is_damaged(task, changes, reason):
    _, _, folder = task
    change(folder, **changes)
    with pytest.raises(UserError) as raised:
        load_result(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'done.json'}: ") and reason in message
    assert message.endswith(f"; remove {folder} and run the command again, which repeats that part")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", ": has 0 rejected documents, and {folder}/done.json says 2"),
        (json.dumps(REJECTED | {"lines": 3}), ": has 3 rejected documents, and {folder}/done.json says 2"),
        (json.dumps(REJECTED | {"piece": 6}), ": names piece 6, which is not in this task"),
        ("\n".join(json.dumps(REJECTED | {"piece": 8 - n}) for n in range(2)), ": names piece 7 after piece 8"),
        (json.dumps(REJECTED | {"bytes": True}), ", line 1: bytes is not a number"),
        ("{", ", line 1: not JSON: Expecting property name"),
    ],
)
def test_rejections_that_are_damaged(task, line, reason):
    job, task, folder = task
    (folder / "rejected.jsonl").write_text(line)
    with pytest.raises(UserError) as raised:
        list(load_rejections(job, task))
    assert str(raised.value).startswith(f"{folder / 'rejected.jsonl'}{reason.format(folder=folder)}")
    assert f"; remove {folder} and run the command again" in str(raised.value)


def test_a_list_of_filtered_documents_that_is_damaged(task):
    job, task, folder = task
    change(
        folder,
        left_out={"rejected": 2, "filter: short": 1, "filter: long": 1, "record: text/html": 4, "empty": 8},
    )
    one = json.dumps(REJECTED | {"lines": 1}) + "\n"
    (folder / "filtered.jsonl").write_text(one * 2)
    assert len(list(load_filtered(job, task))) == 2 == load_result(folder).filtered
    assert load_result(folder).seen == load_result(folder).documents + 12
    (folder / "filtered.jsonl").write_text(one)
    with pytest.raises(
        UserError, match=r"filtered\.jsonl: has 1 filtered documents, and .*done\.json says 2; remove"
    ):
        list(load_filtered(job, task))


def test_an_example_of_another_task(task):
    job, task, folder = task
    change(folder, examples=[EXAMPLE | {"piece": 9}])
    with pytest.raises(UserError, match=r"done\.json: names piece 9, which is not in this task; remove "):
        list(load_replaced_examples(job, task))
