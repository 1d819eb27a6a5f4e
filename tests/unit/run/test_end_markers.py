import json

from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.end_markers import clear_failed, write_failed


def test_the_first_failure_stays_until_it_is_cleared(tmp_path):
    write_failed(tmp_path, 1, ValueError("ä cause"))
    write_failed(tmp_path, 0, RuntimeError("Connection closed by peer"))
    marker = json.loads(RunDirectory(tmp_path).failed_marker.read_text())
    assert marker == marker | {"rank": 1, "kind": "ValueError", "reason": "ä cause"}
    clear_failed(tmp_path)
    clear_failed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_failure_itself_is_told(tmp_path):
    write_failed(tmp_path / "gone", 0, OSError("no space left"))
