import pytest

from gpt2dist.preflight import resolve
from gpt2dist.preflight.report import table
from tests.support.mistakes import mistakes, refusal


def test_the_plan_of_new_targets(run_file):
    _, plan = resolve(run_file, ["data.loss_on=new"], 1)
    (training,) = plan.datasets
    assert training.targets_per_epoch == 2000
    assert plan.targets_per_step == pytest.approx(16 * 2000 / 100)
    assert plan.times_seen(training) == pytest.approx(16)


def test_a_dataset_of_one_split_can_be_validated_on_if_it_is_another(run_file, make_dataset):
    other = make_dataset("other", train=[77])
    _, plan = resolve(run_file, [f"data.validation=[{{path: {other}}}]"], 1)
    assert [(each.name, each.split, each.dataset.directory) for each in plan.validation] == [
        ("val", "train", other)
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train="], "data.train: missing; name at least one dataset, as in `train: [{path: DATASET}]`"),
        (
            ["data.train.0.path=none"],
            "data.train.0.path: none: no such directory; `gpt2dist preprocess` makes a dataset directory",
        ),
        (
            [f"data.train.0.path={'x' * 300}"],
            f"data.train.0.path: {'x' * 300}: File name too long; name a dataset directory",
        ),
        (
            ["data.validation.0.path=none"],
            "data.validation.0.path: none: no such directory; `gpt2dist preprocess` makes a dataset directory",
        ),
        (
            ["data.validation=", "evaluation.every_steps=5"],
            "evaluation.every_steps: there is nothing to evaluate on; name a dataset under "
            "data.validation, or remove it",
        ),
    ],
)
def test_each_mistake_of_data_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_directory_that_is_no_dataset(run_file, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = mistakes(run_file, [f"data.train.0.path={tmp_path / 'empty'}"])
    assert line.startswith(
        f"data.train.0.path: {tmp_path / 'empty'}: not a dataset directory, it has no manifest.json"
    )


def test_datasets_that_cannot_be_trained_on(run_file, make_dataset):
    val_only, short = make_dataset("val-only", val=[500]), make_dataset("short", train=[32])
    assert mistakes(run_file, ["data.validation=", f"data.train.0.path={val_only}"]) == [
        f"data.train.0.path: {val_only} has no train split; preprocess the corpus with a smaller --val-fraction"
    ]
    assert mistakes(run_file, ["data.validation=", f"data.train.0.path={short}"]) == [
        f"data.train.0.path: {short} has 32 training tokens, fewer than one window of 32 + 1; "
        "give it more text or lower data.sequence_length"
    ]
    just_enough = make_dataset("just-enough", train=[33])
    assert resolve(run_file, [f"data.train.0.path={just_enough}"], 1)[1].mixture.windows == (1,)


def test_datasets_that_cannot_be_validated_on(run_file, make_dataset):
    train_only, other = (
        make_dataset("train-only", train=[500]),
        make_dataset("other", tokenizer="b" * 64, val=[9]),
    )
    single, empty = make_dataset("single", val=[1]), make_dataset("empty")
    right = run_file.parent / "right"
    for dataset, message in [
        (other, f"was made with another tokenizer than {right}; preprocess both with the same one"),
        (single, "has fewer than two tokens to score; give it more text"),
        (empty, "has fewer than two tokens to score; give it more text"),
    ]:
        line = f"data.validation.0.path: {dataset} {message}"
        assert mistakes(run_file, [f"data.validation.0.path={dataset}"]) == [line]
    overrides = [f"data.train.0.path={train_only}", f"data.validation.0.path={train_only}"]
    assert mistakes(run_file, overrides) == [
        f"data.validation.0.path: {train_only} has no val split, and the run trains on its train split; "
        "preprocess it with --val-fraction, or name another dataset"
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_whose_files_are_not_whole(run_file, make_dataset, split):
    dataset = make_dataset("torn", train=[500, 70], val=[40])
    key = "data.train.0.path" if split == "train" else "data.validation.0.path"
    with open(dataset / f"{split}-00000.bin", "r+b") as file:
        file.truncate(6)
    message, detail, *rest = str(refusal(run_file, [f"{key}={dataset}"])).split("\n")[1:]
    assert message.startswith(f"  {key}: {dataset}: its files do not match the manifest; copy the dataset again")
    assert detail.startswith(f"    {dataset}/{split}-00000.bin: has 6 bytes, the manifest says ")
    assert rest == []


# Several datasets


def blended(*entries: str) -> list[str]:
    return ["data.validation=", f"data.train=[{', '.join(entries)}]"]


def test_the_plan_of_a_blend_by_hand(run_file, make_dataset):
    other = make_dataset("other", train=[333])
    entries = f"{{path: {run_file.parent}/right, weight: 0.75}}", f"{{path: {other}, weight: 0.25}}"
    _, plan = resolve(run_file, [*blended(*entries), "data.loss_on=new"], 1)
    right, small = plan.datasets
    assert [each.name for each in plan.datasets] == ["right", "other"]
    # 332 targets, the first window has 32 of them, each later one 20 more: 1 + 300 / 20 windows
    assert plan.mixture.windows == (100, 16)
    assert (right.share, small.share) == plan.mixture.shares == (3, 1)
    assert (plan.part(right), plan.part(small)) == (0.75, 0.25)
    assert (plan.epochs(right), plan.epochs(small)) == (0.75 * 16, 0.25 * 1600 / 16)
    assert plan.times_seen(small) == plan.epochs(small)
    assert plan.targets_per_step == pytest.approx(16 * (0.75 * 2000 / 100 + 0.25 * 332 / 16))


@pytest.mark.parametrize(
    ("weights", "part", "text"),
    [
        ((3, 1), 0.25, "exactly the weights; every prefix of the run has them to within 0.5 windows"),
        ((11, 0.0113), 113 / 110_113, "exactly the weights; every prefix of the run"),
        ((9_035_582_489, 123_456_789), 0.0134793, "differ from the weights by at most 4e-11 of all windows"),
        ((1, 1e-300), 0, "differ from the weights by at most 5e-10 of all windows; every prefix"),
    ],
)
def test_any_weights_are_taken_and_their_shares_shown(run_file, make_dataset, weights, part, text):
    paths = run_file.parent / "right", make_dataset("other", train=[500])
    entries = [f"{{path: {path}, weight: {weight}}}" for path, weight in zip(paths, weights, strict=True)]
    config, plan = resolve(run_file, blended(*entries), 1)
    assert plan.part(plan.datasets[1]) == pytest.approx(part, abs=1e-7)
    shown = dict(table(config, plan)["data"])
    assert shown["shares"].startswith(text)
    assert shown["other"].startswith(f"{100 * plan.part(plan.datasets[1]):.4g} % of the windows")


def test_names_are_as_long_as_it_takes(run_file, make_dataset, tmp_path):
    paths = []
    for number, parent in enumerate(("a", "b")):
        (tmp_path / parent).mkdir()
        paths.append(make_dataset(f"{parent}/dataset", train=[100 + number]))
    entries = [f"{{path: {path}, weight: 1}}" for path in (*paths, tmp_path / "right")]
    _, plan = resolve(run_file, blended(*entries), 1)
    assert [each.name for each in plan.datasets] == ["a/dataset", "b/dataset", f"{tmp_path.name}/right"]


def test_blends_that_cannot_be_trained_on(run_file, make_dataset):
    right = run_file.parent / "right"
    other, foreign = make_dataset("other", train=[500]), make_dataset("foreign", tokenizer="b" * 64, train=[500])
    named = f"{{path: {right}, weight: 1}}"
    for second, *lines in [
        (
            f"{{path: {other}}}",
            "data.train.1.weight: missing; each of several datasets needs one; its share of all tokens is 0.1999",
        ),
        (
            f"{{path: {foreign}, weight: 1}}",
            f"data.train.1.path: {foreign} was made with another tokenizer than {right}; "
            "preprocess both with the same one",
        ),
        (
            f"{{path: {right}/../right, weight: 1}}",
            f"data.train.1.path: {right}/../right has the same data as {right}; "
            "name it once, with the sum of the weights",
        ),
        (f"{{path: {other}, weight: 0}}", "data.train.1.weight: should be above 0, not 0"),
        (f"{{path: {other}, weight: .inf}}", "data.train.1.weight: should be a finite number, not inf"),
        (f"{{path: {other}, weight: .nan}}", "data.train.1.weight: should be a finite number, not nan"),
        (f"{{path: {other}, weight: -1}}", "data.train.1.weight: should be above 0, not -1"),
        (f"{{path: {other}, weight: true}}", "data.train.1.weight: should be a number, not true"),
    ]:
        assert mistakes(run_file, blended(named, second)) == lines
    both = [f"{{path: {path}}}" for path in (right, other)]
    assert [line.split(":")[0] for line in mistakes(run_file, blended(*both))] == [
        "data.train.0.weight",
        "data.train.1.weight",
    ]


def test_two_validation_sets_of_one_name(run_file):
    path = run_file.parent / "right"
    assert mistakes(run_file, [f"data.validation=[{{path: {path}}}, {{path: {path}}}]"]) == [
        "data.validation.1.name: 'val' names two validation sets; give each its own name"
    ]
