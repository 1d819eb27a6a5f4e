import pytest

from gpt2dist.config.describe import describe, explanation, overview
from gpt2dist.errors import UserError

LONGEST_SUMMARY = 80


def keys(key):
    """All keys and sections below a key."""
    for inside in key.keys:
        yield inside
        yield from keys(inside)


def test_every_key_and_section_has_a_description_whose_first_sentence_fits_a_line():
    found = {key.name: key for key in keys(describe())}
    assert len(found) > 70
    assert [name for name, key in found.items() if not key.description.endswith(".")] == []
    assert {name: key.summary for name, key in found.items() if len(key.summary) > LONGEST_SUMMARY} == {}


@pytest.mark.parametrize(
    ("name", "type_", "limits", "default"),
    [
        ("optimizer.lr", "number", "above 0", "0.0006"),
        ("optimizer.eps", "number", "above 0", "1e-8"),
        ("optimizer.betas", "list of 2 numbers", "at least 0, below 1", "[0.9, 0.95]"),
        ("schedule.min_lr_ratio", "number", "from 0 to 1", "0.1"),
        ("schedule.decay_fraction", "number", "above 0, at most 1", "not set"),
        ("schedule.total_tokens", "integer (tokens)", "from 1 to 10,000,000,000,000,000", "not set"),
        ("schedule.warmup_steps", "integer (optimizer steps)", "from 0 to 1,000,000,000", "0"),
        ("run.timeout_seconds", "number (seconds)", "from 5 to 10,000,000", "600"),
        ("run.name", "text", "", '""'),
        ("run.output_dir", "text", "", "not set"),
        ("model.init_from", "text", "not empty", "not set"),
        ("model.compile", "true or false", "", "false"),
        ("precision", "one of fp32, bf16, fp16, autocast_bf16", "", "fp32"),
        ("zero.stage", "integer", "from 0 to 3", "1"),
        ("zero.deepspeed", "mapping", "", "{}"),
        ("data.train", "list of sections", "", "[]"),
        ("data.train.N.path", "text", "", "required"),
        ("data.validation.N.name", "text", "only letters, digits, '.', '_' and '-'", "val"),
        ("monitoring.trackers", "list of texts", "", "[]"),
        ("monitoring.samples", "section", "", ""),
        ("batch.ramp", "section", "", "not set"),
        ("batch.ramp.start", "integer (windows)", "from 1 to 100,000,000", "required"),
    ],
)
def test_type_limits_and_default_in_words(name, type_, limits, default):
    key = describe(name)
    assert (key.name, key.type, key.limits, key.default) == (name, type_, limits, default)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("data.train.0.path", "data.train.N.path"),
        ("data.train.path", "data.train.N.path"),
        ("data.train.3", "data.train"),
        ("zero.deepspeed.aio.block_size", "zero.deepspeed"),
    ],
)
def test_items_of_lists_and_keys_of_mappings_are_found(given, found):
    assert describe(given).name == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "optimizer.learning_rate",
            "optimizer.learning_rate: unknown key; known here: .*; `gpt2dist config optimizer` explains them",
        ),
        (
            "optimizer.l",
            r"optimizer.l: unknown key; did you mean optimizer.lr\? `gpt2dist config optimizer` lists",
        ),
        ("optimiser.lr", r"optimiser: unknown key; did you mean optimizer\? `gpt2dist config` lists the keys"),
        ("lr", r"lr: unknown key; did you mean optimizer.lr\?"),
        ("data.train.0.pat", r"did you mean data.train.path\? `gpt2dist config data.train` lists"),
        ("optimizer.lr.x", "optimizer.lr has no keys below it; `gpt2dist config optimizer.lr` explains it"),
        ("precision.a.b", "precision has no keys below it"),
        ("optimizer.", "optimizer.: unknown key; known here"),
    ],
)
def test_a_key_that_does_not_exist_names_the_close_one(name, message):
    with pytest.raises(UserError, match=message):
        describe(name)


def test_the_overview_has_a_line_for_each_key_with_its_section_as_heading():
    text = overview(describe("batch"))
    assert text.splitlines()[0].startswith("batch: Batch sizes. ")
    assert text.splitlines()[1:3] == [
        "  batch.global_batch_size  8         Windows per optimizer step, of all ranks together",
        "  batch.micro_batch_size   1         Windows per forward pass and rank",
    ]
    assert "\n\nbatch.ramp: Growth of the global batch" in text
    whole = overview(describe())
    for key in keys(describe()):
        lines = [line for line in whole.splitlines() if line.split()[:1] == [key.name]]
        assert len(lines) == (1 if key.default else 0), key.name


def test_the_explanation_of_a_key():
    text = explanation(describe("model.context_length"))
    assert text.splitlines()[0] == "model.context_length"
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("\n\n  type     integer (tokens)\n  limits   from 1 to 10,000,000\n  default  not set")
