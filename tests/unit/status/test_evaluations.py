import pytest

from gpt2dist.status.evaluations import Evaluation, all_evaluations, last_evaluations

UNKNOWN = {"perplexity": None, "bits_per_byte": None}


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
        Evaluation("val", 20, {"loss": 2.0, **UNKNOWN}),
        Evaluation("news", 20, {"loss": 3.5, **UNKNOWN}),
        Evaluation("wiki", 15, {"loss": 2.5, **UNKNOWN, "perplexity": 12.0}),
    ]


def test_what_is_beyond_the_run_is_of_another_past(run):
    assert last_evaluations(run, 14) == [
        Evaluation("val", 10, {"loss": 3.0, **UNKNOWN, "bits_per_byte": 1.5}),
        Evaluation("news", 10, {"loss": 4.0, **UNKNOWN}),
    ]


def test_all_by_name_and_step(run):
    assert [(each.name, each.step, each.values["loss"]) for each in all_evaluations(run)] == [
        *(("news", 10, 4.0), ("news", 20, 3.5)),
        *(("val", 10, 3.0), ("val", 20, 2.0)),
        ("wiki", 15, 2.5),
    ]


def test_measures_that_this_machine_does_not_know_are_shown_as_the_file_describes_them(make_run):
    run = make_run()
    described = {"speedup": {"title": "speedup", "unit": "×", "digits": 1}, "noise": {"places": ["card"]}}
    result = {"loss": 2.0, "stride": 16, "speedup": 7.25, "noise": 3, "measures": described}
    run.write("eval/step-00000010.json", {"val": result})
    (found,) = all_evaluations(run.directory)
    assert found.described() == "loss 2.0000, speedup 7.2"
    values = {"loss": 2.0, **UNKNOWN, "speedup": 7.25, "noise": 3}
    assert found.as_json() == {"name": "val", "step": 10, **values}


def test_a_run_without_results(tmp_path):
    assert (last_evaluations(tmp_path, None), all_evaluations(tmp_path)) == ([], [])
