import pytest

from gpt2dist.status.evaluations import Evaluation, all_evaluations, last_evaluations


@pytest.fixture
def run(make_run):
    run = make_run()
    run.write("eval/step-00000010.json", {"val": {"loss": 3.0, "bits_per_byte": 1.5}, "news": {"loss": 4.0}})
    run.write("eval/step-00000020.json", {"val": {"loss": 2.0}, "news": {"loss": 3.5}})
    run.write("eval/wiki/step-00000015.json", {"step": 15, "loss": 2.5, "perplexity": 12.0, "time": 1.0})
    run.write("eval/wiki/scored-now/config.json", {"n_layer": 2})
    run.write("eval/notes.json", {"step": 99, "loss": 0.1})
    return run.directory


def test_the_newest_of_each_name_the_newest_of_all_first(run):
    assert last_evaluations(run, None) == [
        Evaluation("val", 20, 2.0, None, None),
        Evaluation("news", 20, 3.5, None, None),
        Evaluation("wiki", 15, 2.5, 12.0, None),
    ]


def test_what_is_beyond_the_run_is_of_another_past(run):
    assert last_evaluations(run, 14) == [
        Evaluation("val", 10, 3.0, None, 1.5),
        Evaluation("news", 10, 4.0, None, None),
    ]


def test_all_by_name_and_step(run):
    assert [(each.name, each.step, each.loss) for each in all_evaluations(run)] == [
        *(("news", 10, 4.0), ("news", 20, 3.5)),
        *(("val", 10, 3.0), ("val", 20, 2.0)),
        ("wiki", 15, 2.5),
    ]


def test_a_run_without_results(tmp_path):
    assert (last_evaluations(tmp_path, None), all_evaluations(tmp_path)) == ([], [])
