import json

from gpt2dist.training import failed


def test_the_first_to_fail_has_the_word_until_it_is_taken_back(tmp_path):
    failed.leave_word(tmp_path, 1, ValueError("ä cause"))
    failed.leave_word(tmp_path, 0, RuntimeError("Connection closed by peer"))
    word = json.loads((tmp_path / failed.NAME).read_text())
    assert word == word | {"rank": 1, "kind": "ValueError", "reason": "ä cause"}
    failed.take_back(tmp_path)
    failed.take_back(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_failure_itself_is_told(tmp_path):
    failed.leave_word(tmp_path / "gone", 0, OSError("no space left"))
