import pytest

from tests.support.mistakes import mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint.resume=yesterday"],
            "checkpoint.resume: yesterday is not a checkpoint (it has no manifest.json); set auto, never "
            "or a checkpoint's path",
        ),
        (
            [f"checkpoint.resume={'x' * 300}"],
            f"checkpoint.resume: {'x' * 300} is not a checkpoint (it has no manifest.json); set auto, "
            "never or a checkpoint's path",
        ),
    ],
)
def test_each_mistake_of_directories_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_file_where_the_run_should_live(run_file, tmp_path):
    (tmp_path / "file").touch()
    message = f"run.output_dir: {tmp_path / 'file'} is a file; name a directory"
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file'}"]) == [message]
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file' / 'below'}"]) == [message]
