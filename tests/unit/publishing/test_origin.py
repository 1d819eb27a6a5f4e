import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.model.find_model import fingerprint
from gpt2dist.publishing.origin import EnvironmentFile, ModelProvenance, Result
from tests.support.small_models import make_model


def test_a_checkpoint_in_its_run_tells_everything(run):
    origin = ModelProvenance.read(run / "checkpoints/step-00000004")
    assert origin.state.step == 4
    assert origin.config.run.name == "tiny-words"
    assert origin.environment.packages["torch"]
    assert origin.fingerprint == fingerprint(run / "checkpoints/step-00000004")
    assert origin.shape.parameters == 36096
    assert origin.base_model is None


def test_the_scores_of_a_step_are_those_of_its_validation(run):
    (result,) = ModelProvenance.read(run / "checkpoints/step-00000004").results
    said = json.loads((run / "eval/step-00000004.json").read_text())["val"]
    later = json.loads((run / "eval/step-00000008.json").read_text())["val"]
    assert result.name == "val"
    known = ("perplexity", "word_perplexity", "lm_eval_word_perplexity", "bits_per_byte")
    assert result.measures == {key: said[key] for key in known}
    assert result.measures["perplexity"] != later["perplexity"]
    assert result.protocol == {"sequence_length": 32, "stride": 12, "document_boundaries": "pack"}


def test_results_that_were_recorded_in_the_run_count_if_they_are_of_these_weights(run):
    directory = run / "checkpoints/step-00000008"
    for name, model in (("wiki", fingerprint(directory)), ("other", "f" * 64)):
        (run / "eval" / name).mkdir()
        record = {"step": 8, "model": model, "perplexity": 7.5, "bits_per_byte": None, "data": "abc"}
        (run / "eval" / name / "step-00000008.json").write_text(json.dumps(record))
    results = ModelProvenance.read(directory).results
    assert [result.name for result in results] == ["val", "wiki"]
    assert results[1] == Result("wiki", "abc", {"perplexity": 7.5}, {})


def test_given_results_must_be_of_this_model(run, write_result):
    directory = run / "checkpoints/step-00000008"
    right = write_result("wikitext", model=fingerprint(directory))
    result = ModelProvenance.read(directory, [right]).results[-1]
    assert result == Result(
        "wikitext",
        "d" * 64,
        {
            "perplexity": 20.5,
            "word_perplexity": 100.25,
            "lm_eval_word_perplexity": 90.5,
            "bits_per_byte": 1.125,
        },
        {"split": "test", "sequence_length": 32, "stride": 16, "prefix": "none", "per_document": True},
    )
    wrong = write_result("wrong", model=fingerprint(run / "checkpoints/step-00000004"))
    with pytest.raises(UserError) as raised:
        ModelProvenance.read(directory, [right, wrong])
    assert str(raised.value) == (
        f"--results: {wrong} is of another model than {directory} (its fingerprint differs); "
        f"score this one: gpt2dist evaluate {directory} --output {wrong}"
    )


def test_a_result_of_last_words_says_so(run, write_result):
    directory = run / "checkpoints/step-00000008"
    path = write_result(
        "lambada", model=fingerprint(directory), accuracy=0.25, word_perplexity=None, lm_eval_word_perplexity=None
    )
    result = ModelProvenance.read(directory, [path]).results[-1]
    assert result.measures == {"perplexity": 20.5, "bits_per_byte": 1.125, "accuracy": 0.25}
    assert result.protocol["scored"] == "the last word of each passage"


@pytest.mark.parametrize(("dtype", "said"), [("bf16", "bf16"), ("fp32", None)])
def test_a_result_in_another_dtype_than_fp32_says_so(run, write_result, dtype, said):
    directory = run / "checkpoints/step-00000008"
    path = write_result("wikitext", model=fingerprint(directory), dtype=dtype)
    assert ModelProvenance.read(directory, [path]).results[-1].protocol.get("dtype") == said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory; give a file that `gpt2dist evaluate --output` wrote"),
        ("nothing", "not JSON"),
        ("[" * 9999, "nested too deeply; give a file"),
        ('{"split": ["val"], "perplexity": 3.5}', "split is neither a text nor a number; give a file"),
        ("[1]", "a list instead of an object; give a file that `gpt2dist evaluate --output` wrote"),
        (
            "RIGHT",
            "has none of perplexity, bits_per_byte, word_perplexity, lm_eval_word_perplexity, accuracy, acc, "
            "acc_norm; give "
            "a file that `gpt2dist evaluate --output` wrote",
        ),
    ],
)
def test_results_that_are_none(run, tmp_path, text, message):
    directory = run / "checkpoints/step-00000008"
    path = tmp_path / "result.json"
    if text:
        right = json.dumps({"model": fingerprint(directory), "perplexity": "low", "accuracy": True})
        path.write_text(right if text == "RIGHT" else text)
    with pytest.raises(UserError) as raised:
        ModelProvenance.read(directory, [path])
    assert str(path) in str(raised.value) and message in str(raised.value)


def test_a_checkpoint_that_was_taken_out_of_its_run(run, tmp_path):
    directory = (run / "checkpoints/step-00000008").rename(tmp_path / "alone")
    origin = ModelProvenance.read(directory)
    assert origin.state.step == 8
    assert (origin.config, origin.environment, origin.results) == (None, EnvironmentFile(), ())


def test_a_run_without_validation_has_no_scores(run):
    (run / "eval/step-00000008.json").unlink()
    assert ModelProvenance.read(run / "checkpoints/step-00000008").results == ()


def test_a_configuration_that_cannot_be_read_is_named(run):
    path = run / "config.yaml"
    path.write_text(path.read_text() + "surprise: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: 1 mistake in the configuration\n  surprise: unknown key"):
        ModelProvenance.read(run / "checkpoints/step-00000008")


def test_of_a_model_without_a_run_only_its_shape_is_known(save_model):
    directory = save_model(make_model())
    (directory / "trainer_state.json").write_text('{"epoch": 1.0}')  # of transformers' Trainer
    origin = ModelProvenance.read(directory)
    assert origin.shape.n_layer == 3
    known = (origin.base_model, origin.state, origin.config, origin.environment, origin.results)
    assert known == (None, None, None, EnvironmentFile(), ())


def test_a_model_in_the_cache_of_the_hub_is_named_as_there(tmp_path):
    directory = tmp_path / "hub/models--openai-community--gpt2/snapshots/0123abc"
    make_model().save_pretrained(directory)
    assert ModelProvenance.read(directory).base_model == "openai-community/gpt2"


def test_a_run_that_began_with_a_model_of_the_hub_names_it(run):
    path = run / "environment.json"
    facts = json.loads(path.read_text())
    begun = {"path": "/home/me/.cache/hub/models--gpt2/snapshots/0123abc", "fingerprint": "f" * 64}
    path.write_text(json.dumps(facts | {"init_from": begun}))
    assert ModelProvenance.read(run / "checkpoints/step-00000008").base_model == "gpt2"
    path.write_text(json.dumps(facts | {"init_from": begun | {"path": "/home/me/models/secret"}}))
    assert ModelProvenance.read(run / "checkpoints/step-00000008").base_model is None
