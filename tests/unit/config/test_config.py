from pathlib import Path

import pytest

from gpt2dist.config import Config, Problem, raise_problems, read
from gpt2dist.config.schema import OptimizerSection, ZeroSection
from gpt2dist.errors import UserError

ZERO_KEYS = ", ".join(ZeroSection.model_fields)
OPTIMIZER_KEYS = ", ".join(OptimizerSection.model_fields)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def lists(section=""):
    return f"`{f'gpt2dist config {section}'.strip()}` lists the keys"


def explains(section=""):
    return f"`{f'gpt2dist config {section}'.strip()}` explains them"


def shown(problems: list[Problem]) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in problems]


# What is right


def test_an_empty_file_is_all_defaults_with_the_name_of_the_file(write):
    config, problems = read(write("", "my-run.yaml"))
    assert problems == []
    assert config.run.name == "my-run"
    assert config.output_dir == Path("runs/my-run")
    assert config.model_copy(update={"run": Config().run}) == Config()


def test_values_of_the_file_and_overrides_in_order(write):
    path = write("run: {name: a, output_dir: out}\noptimizer: {lr: 1e-3, betas: [0.9, 0.99]}\nbatch: {}")
    config, problems = read(path, ["optimizer.lr=2e-3", "zero.stage=3", "optimizer.lr=3e-3", "run.seed=7"])
    assert problems == []
    assert (config.optimizer.lr, config.optimizer.betas, config.zero.stage, config.run.seed) == (
        3e-3,
        (0.9, 0.99),
        3,
        7,
    )
    assert config.output_dir == Path("out")


def test_overrides_reach_into_lists_and_make_sections(write):
    path = write("data: {train: [{path: a}], validation: [{name: x, path: b}, {name: y, path: c}]}")
    config, problems = read(
        path, ["data.validation.1.path=d", "optimizer.betas=[0.8, 0.9]", "monitoring.samples.prompts=[hello]"]
    )
    assert problems == []
    assert [str(each.path) for each in config.data.validation] == ["b", "d"]
    assert config.optimizer.betas == (0.8, 0.9)
    assert config.monitoring.samples.prompts == ("hello",)


def test_an_override_of_shared_yaml_changes_one_place_only(write):
    path = write("data: {validation: [&v {name: x, path: a}, {<<: *v, name: y}, *v]}")
    config, problems = read(path, ["data.validation.0.path=b"])
    assert problems == []
    assert [(each.name, str(each.path)) for each in config.data.validation] == [
        ("x", "b"),
        ("y", "a"),
        ("x", "a"),
    ]


@pytest.mark.parametrize("text", ["6e-4", "6.0e-4", "0.0006", "+6E-04", ".0006"])
def test_numbers_as_people_write_them(write, text):
    assert read(write(f"optimizer: {{lr: {text}}}"))[0].optimizer.lr == 6e-4


@pytest.mark.parametrize(("text", "tokens"), [("10e9", 10**10), ("1.5e3", 1500), ("300_000", 300_000)])
def test_whole_numbers_may_have_exponents_and_underscores(write, text, tokens):
    config, problems = read(write(f"schedule: {{total_tokens: {text}}}"))
    assert (config.schedule.total_tokens, problems) == (tokens, [])


@pytest.mark.parametrize(
    "text",
    [
        "optimizer:",
        "optimizer: ~\nbatch: null",
        "optimizer: {lr: }",
        "run: {name: , seed: null}",
        "precision:",
        "data: {train: , loss_on: null}",
        "monitoring: {samples: }",
        "zero: {deepspeed: null, stage: ~}",
    ],
)
def test_a_key_without_a_value_has_its_default(write, text):
    config, problems = read(write(text))
    assert problems == []
    assert config == read(write(""))[0]


def test_null_undoes_a_value_of_the_file(write):
    config, problems = read(
        write("schedule: {total_steps: 10}"), ["schedule.total_steps=", "schedule.total_tokens=9"]
    )
    assert (config.schedule.total_steps, config.schedule.total_tokens, problems) == (None, 9, [])


def test_raw_deepspeed_keys_keep_their_nulls(write):
    config, _ = read(write("zero: {deepspeed: {a: null, b: {c: [1, null]}}}"))
    assert config.zero.deepspeed == {"a": None, "b": {"c": [1, None]}}


def integers(schema, place=""):
    """The places in a JSON schema that take any integer, and those of them that have an upper limit."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if isinstance(schema, dict):
        if schema.get("type") == "integer" and not {"const", "enum"} & set(schema):
            yield place, "maximum" in schema
        for key, value in schema.items():
            yield from integers(value, f"{place}/{key}")


def test_every_whole_number_has_an_upper_limit():
    """So that no absurd size reaches a computation or an allocation."""
    found = dict(integers(Config.model_json_schema()))
    assert len(found) > 25
    unlimited = [place for place, limited in found.items() if not limited]
    assert unlimited == []


def test_text_stays_text(write):
    config, problems = read(
        write("run: {name: 2024-01-31}\nmonitoring: {samples: {prompts: ['1', '= x', 'ä\\ud800']}}")
    )
    assert problems == []
    assert config.run.name == "2024-01-31"
    assert config.monitoring.samples.prompts == ("1", "= x", "ä\\ud800")


def test_half_a_surrogate_pair_becomes_a_question_mark(write):
    assert read(write('run: {name: "a\\ud800b"}'))[0].run.name == "a?b"


def test_a_byte_order_mark_is_no_content(write):
    assert read(write(b"\xef\xbb\xbfrun: {name: x}"))[0].run.name == "x"


def test_the_saved_configuration_reads_back_as_the_same(write):
    text = """
        run: {output_dir: some/where, seed: 5}
        model: {preset: gpt2-124m, context_length: 64}
        data: {train: [{path: a}], validation: [{path: b}, {name: c, path: d}], loss_on: new}
        optimizer: {lr: 6e-4, eps: 1e-8}
        zero: {stage: 2, deepspeed: {x: {y: [1, 2.5, null, ä]}}}
        monitoring: {samples: {prompts: ["one: two", "#"], every_steps: 3}}
    """
    config, problems = read(write(text))
    assert problems == []
    assert read(write(config.to_yaml(), "config.yaml")) == (config, [])


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().run.seed = 3  # type: ignore[misc]


# What is wrong: one case for each message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {lr: fast}", "optimizer.lr: should be a number, not 'fast'"),
        ("optimizer: {lr: '6e-4'}", "optimizer.lr: should be a number, not '6e-4'"),
        ("optimizer: {lr: true}", "optimizer.lr: should be a number, not true"),
        ("optimizer: {lr: 0}", "optimizer.lr: should be above 0, not 0"),
        ("optimizer: {lr: .nan}", "optimizer.lr: should be a finite number, not nan"),
        ("optimizer: {lr: -.inf}", "optimizer.lr: should be a finite number, not -inf"),
        ("optimizer: {lr: 1e999}", "optimizer.lr: should be a finite number, not inf"),
        ("optimizer: {weight_decay: -1}", "optimizer.weight_decay: should be at least 0, not -1"),
        ("optimizer: {betas: 0.9}", "optimizer.betas: should be a list, not 0.9"),
        ("optimizer: {betas: [0.9]}", "optimizer.betas.1: missing; add it, since it has no default"),
        ("optimizer: {betas: [0.9, 1]}", "optimizer.betas.1: should be below 1, not 1"),
        ("optimizer: {betas: [0.9, null]}", "optimizer.betas.1: should be a number, not null"),
        ("optimizer: {betas: [1, 2, 3]}", "optimizer.betas: should be a list of 2, not [1, 2, 3]"),
        ("optimizer: {betas: {0: 1, 1: 2}}", "optimizer.betas: should be a list, not {'0': 1, '1': 2}"),
        ("batch: {micro_batch_size: 1.5}", "batch.micro_batch_size: should be an integer, not 1.5"),
        ("batch: {micro_batch_size: '8'}", "batch.micro_batch_size: should be an integer, not '8'"),
        ("batch: {micro_batch_size: .inf}", "batch.micro_batch_size: should be an integer, not inf"),
        ("schedule: {total_steps: 1:00}", "schedule.total_steps: should be an integer, not '1:00'"),
        ("schedule: {total_steps: 010}", "schedule.total_steps: should be an integer, not '010'"),
        ("optimizer: {lr: 1:30.5}", "optimizer.lr: should be a number, not '1:30.5'"),
        (
            "schedule: {total_steps: 9000000000000000000}",
            "schedule.total_steps: should be at most 1000000000, not 9000000000000000000",
        ),
        (
            "run: {timeout_seconds: 1e30}",
            "run.timeout_seconds: should be at most 10000000, not 1e+30",
        ),
        ("run: {seed: -1}", "run.seed: should be at least 0, not -1"),
        ("run: {name: 3}", "run.name: should be a string, not 3; quote it if it is meant as text"),
        ("run: {name: [a]}", "run.name: should be a string, not ['a']"),
        ("run: {output_dir: 3}", "run.output_dir: should be a string, not 3; quote it if it is meant as text"),
        ("monitoring: {tensorboard: 'yes'}", "monitoring.tensorboard: should be true or false, not 'yes'"),
        ("precision: bf15", "precision: 'bf15' is not one of 'fp32', 'bf16', 'fp16' or 'autocast_bf16'"),
        ("zero: {stage: 4}", "zero.stage: should be at most 3, not 4"),
        ("zero: {stage: true}", "zero.stage: should be an integer, not true"),
        ("zero: {deepspeed: [1]}", "zero.deepspeed: should be a mapping, not [1]"),
        ("data: {train: [a]}", "data.train.0: should be a section with keys (path, weight), not 'a'"),
        ("data: {train: [null]}", "data.train.0: should be a section with keys (path, weight), not null"),
        ("data: {train: [{}]}", "data.train.0.path: missing; add it, since it has no default"),
        ("data: {train: a}", "data.train: should be a list, not 'a'"),
        (
            "data: {validation: [{name: a b, path: c}]}",
            "data.validation.0.name: should contain only letters, digits, '.', '_' and '-', not 'a b'",
        ),
        (
            "zero: 3",
            f"zero: should be a section with keys ({ZERO_KEYS}), not 3",
        ),
        (
            "zero: []",
            f"zero: should be a section with keys ({ZERO_KEYS}), not []",
        ),
        (
            "optimiser: {lr: 1}",
            f"optimiser: unknown key; did you mean optimizer? {lists()}",
        ),
        (
            "optimizer: {learning: 1}",
            f"optimizer.learning: unknown key; known here: {OPTIMIZER_KEYS}; {explains('optimizer')}",
        ),
        (
            "batch: {micro_batchsize: 1}",
            f"batch.micro_batchsize: unknown key; did you mean batch.micro_batch_size? {lists('batch')}",
        ),
        (
            "model: {lr: 1}",
            f"model.lr: unknown key; did you mean optimizer.lr? {lists('optimizer')}",
        ),
        ("lr: 1", f"lr: unknown key; did you mean optimizer.lr? {lists('optimizer')}"),
        (
            "stride: null",
            f"stride: unknown key; did you mean data.stride or evaluation.stride? {lists()}",
        ),
        (
            "data: {train: [{path: a, wait: 1}]}",
            f"data.train.0.wait: unknown key; did you mean data.train.0.weight? {lists('data.train')}",
        ),
        (
            "1: 2",
            f"1: unknown key; known here: {', '.join(Config.model_fields)}; {explains()}",
        ),
        (
            "zero: {'': 2}",
            f"zero.: unknown key; known here: {ZERO_KEYS}; {explains('zero')}",
        ),
    ],
)
def test_each_mistake_names_its_key_and_a_fix_and_keeps_the_default(write, text, message):
    config, problems = read(write(text))
    assert shown(problems) == [message]
    assert config == read(write(""))[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "lr: not an override; write section.key=value"),
        ("=3", "=3: not an override; write section.key=value"),
        (
            "run.name=[a",
            "run.name: '[a' is not valid YAML (line 1: expected ',' or ']', but got '<stream end>'); quote it",
        ),
        (
            "run.name=a: b: c",
            "run.name: 'a: b: c' is not valid YAML (line 1: mapping values are not allowed here); quote it",
        ),
        ("optimizer.lr.x=3", "optimizer.lr: should be a number, not {'x': 3}"),
        ("precision.x=3", "precision: {'x': 3} is not one of 'fp32', 'bf16', 'fp16' or 'autocast_bf16'"),
        ("optimizer=3", f"optimizer: should be a section with keys ({OPTIMIZER_KEYS}), not 3"),
        (
            "data.train.1.path=x",
            "data.train.1.path: data.train has 1 item; write the number of an item, counted from 0",
        ),
        (
            "data.train.path=x",
            "data.train.path: data.train has 1 item; write the number of an item, counted from 0",
        ),
        (
            "data.train.-1.path=x",
            "data.train.-1.path: data.train has 1 item; write the number of an item, counted from 0",
        ),
        ("data.validation.0.path=x", "data.validation: should be a list, not {'0': {'path': 'x'}}"),
        (
            "batch..x=3",
            f"batch.: unknown key; known here: global_batch_size, micro_batch_size, ramp; {explains('batch')}",
        ),
    ],
)
def test_each_wrong_override_is_named(write, override, message):
    _, problems = read(write("data: {train: [{path: a}]}"), [override])
    assert shown(problems) == [message]


def test_all_mistakes_are_reported_at_once_in_order(write):
    text = "optimizer: {lr: -1, betas: [2, x, 3]}\nzero: {stage: 9}\nrum: {}\ndata: {train: [{pat: a}, 3]}"
    _, problems = read(write(text), ["nonsense", "batch.micro_batch_size=no"])
    assert [problem.key for problem in problems] == [
        "nonsense",
        "data.train.0.path",
        "data.train.0.pat",
        "data.train.1",
        "batch.micro_batch_size",
        "optimizer.lr",
        "optimizer.betas",
        "zero.stage",
        "rum",
    ]


def test_long_values_are_cut_short(write):
    _, problems = read(write(f"optimizer: {{lr: {'x' * 500}}}"))
    assert len(problems[0].message) < 100


def test_no_problem_raises_nothing_and_each_is_listed_once():
    raise_problems([], "run.yaml")
    with pytest.raises(UserError, match=r"^run.yaml: 1 mistake in the configuration\n  a.b: is wrong$"):
        raise_problems([Problem("a.b", "is wrong")] * 2, "run.yaml")
    with pytest.raises(UserError, match="2 mistakes"):
        raise_problems([Problem("a.b", "is wrong"), Problem("a.c", "is wrong")], "run.yaml")


@pytest.mark.parametrize(
    ("one", "other", "follows"),
    [
        (Problem("a.b", ""), Problem("a.b", ""), True),
        (Problem("a", ""), Problem("a.b.0.c", ""), True),
        (Problem("a.b.0.c", ""), Problem("a.b", ""), True),
        (Problem("a.b", ""), Problem("a.bc", ""), False),
        (Problem("a.b", ""), Problem("a.c", ""), False),
        (Problem("a.b", "", also=("c.d",)), Problem("c.d", ""), True),
        (Problem("a.b", ""), Problem("a.x", "", also=("a.b",)), True),
    ],
)
def test_problems_that_share_a_key_follow_from_each_other(one, other, follows):
    assert one.follows_from(other) is follows


# What is no configuration at all

BOMB = "[&l0 [1, 1, 1], " + ", ".join(f"&l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)) + "]"
"""A few hundred characters that stand for 9^8 numbers."""
MERGE_BOMB = "[&l0 {k: 1}, " + ", ".join(f"&l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" for n in range(1, 9))
MERGE_BOMB += "]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", r"must hold sections \(run, model, .*\), not \['a', 'b'\]"),
        ("hello", "must hold sections .*, not 'hello'"),
        ("3", "must hold sections .*, not 3"),
        (b"\xff\xfe\x00\x01binary", "not UTF-8 text; give the path of a YAML run file"),
        (b"a\x00b", "not valid YAML: unacceptable character"),
        ("a: 1\nb: [", "not valid YAML: line 2: expected the node content"),
        ("a: 1\n\tb: 2", "not valid YAML: line 2: found character '\\\\t'"),
        ("run: {}\nrun: {}", "not valid YAML: line 2: the key 'run' is given twice"),
        ("optimizer:\n  lr: 1\n  eps: 1\n  lr: 2", "not valid YAML: line 4: the key 'lr' is given twice"),
        ("a: &a {}\nb: {<<: *a, <<: *a}", "not valid YAML: line 2: the key '<<' is given twice"),
        ("a: &a [*a]", "not valid YAML: nested too deeply, or an alias inside its own anchor"),
        ("a: &a {b: *a}", "not valid YAML: nested too deeply, or an alias inside its own anchor"),
        ("a: " + "[" * 60 + "]" * 60, "not valid YAML: nested too deeply"),
        ("[" * 3000, "not valid YAML: nested too deeply"),
        ("a: *missing", "not valid YAML: line 1: found undefined alias 'missing'"),
        ("a: 1\n---\nb: 2", "not valid YAML: line 2: but found another document"),
        ("? [1, 2]\n: 3", "not valid YAML: line 1: found unhashable key"),
        ("a: !!python/object/apply:os.system [echo]", "could not determine a constructor for the tag"),
        ("a: !!int x", "not valid YAML: invalid literal for int"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("<<: 3", "not valid YAML: line 1: expected a mapping"),
        (f"a: {BOMB}", "not valid YAML: more than 20,000 values with aliases expanded, the limit"),
        ("# long\n" * 50_000, "not valid YAML: longer than 256 KiB, the limit for a configuration"),
        ("#" + "é" * 150_000, "not valid YAML: longer than 256 KiB, the limit for a configuration"),
        ("run: {seed: " + "9" * 30 + "}", "not valid YAML: a number that does not fit into 64 bits"),
        ("run: {seed: " + "9" * 5000 + "}", "not valid YAML: Exceeds the limit"),
        ("run: {seed: 0x" + "f" * 5000 + "}", "not valid YAML: a number that does not fit into 64 bits"),
    ],
)
def test_a_file_that_cannot_be_read_as_sections_is_refused_by_name(write, content, message):
    with pytest.raises(UserError, match=message) as raised:
        read(write(content))
    assert str(raised.value).startswith(str(write("")))
    assert "\n" not in str(raised.value)


def test_merge_keys_do_not_multiply(write):
    """PyYAML before 6.0.4 expands them, which is refused in time; later versions merge equal keys first."""
    try:
        _, problems = read(write(f"a: {MERGE_BOMB}"))
    except UserError as error:
        assert "not valid YAML: more than 20,000 values with aliases expanded" in str(error)
    else:
        assert [problem.key for problem in problems] == ["a"]


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file or directory; give the path of a YAML run file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory; give the path of a YAML run file"):
        read(tmp_path)
