import dataclasses
import json
import re

import pytest

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from gpt2dist.loading.batch_ramp import Origin
from gpt2dist.preflight import resolve
from gpt2dist.training.resume_checks import (
    KEPT,
    check_resumable,
    data_order,
    dataset_changes,
    datasets_of,
    manifest_changes,
)

RUN = """
model: {n_layer: 1, n_head: 1, n_embd: 8, context_length: 8}
data: {train: [{path: BOOKS, weight: 7}, {path: CODE, weight: 3}]}
schedule: {total_steps: 9}
"""


@pytest.fixture
def run_file(tmp_path, make_dataset):
    books, code = make_dataset("books", train=[100]), make_dataset("code", train=[90])
    make_dataset("more", train=[80])
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("BOOKS", str(books)).replace("CODE", str(code)))
    return path


@pytest.fixture
def state(run_file) -> TrainerState:
    """What a checkpoint of the run file holds, beside its config.json."""
    config, plan = resolve(run_file, [], 1)
    write_config(run_file.parent / "step-3", plan.shape)
    return TrainerState(
        step=3,
        consumed_samples=24,
        consumed_tokens=192,
        updates=3,
        evaluation_done=True,
        lr=0.1,
        loss_scaler={},
        history={},
        probe_loss=5.0,
        datasets=datasets_of(plan),
        tokenizer=plan.tokenizer_fingerprint,
        order=data_order(config, plan),
        world_size=1,
        zero_stage=1,
        precision="fp32",
    )


def write_config(checkpoint, shape, **options) -> None:
    sizes = {key: getattr(shape, key) for key in ("n_layer", "n_head", "n_embd", "vocab_size")}
    checkpoint.mkdir(exist_ok=True)
    text = json.dumps({**sizes, "n_positions": shape.context_length, **options})
    (checkpoint / "config.json").write_text(text)


def go_on(run_file, state, *overrides: str):
    config, plan = resolve(run_file, list(overrides), 1)
    return check_resumable(run_file.parent / "step-3", state, config, plan)


def ways_out(run_file, kind: str) -> str:
    return (
        f"; set it back, continue this run with 'checkpoint.accept_changes=[{kind}]' ({KEPT[kind]}), or start a "
        f"new run from its weights with model.init_from={run_file.parent}/step-3 in another run.output_dir"
    )


def train(home, **weights: float) -> str:
    entries = ", ".join(f"{{path: {home / name}, weight: {weight}}}" for name, weight in weights.items())
    return f"data.train=[{entries}]"


def test_the_same_run_goes_on(run_file, state):
    go_on(run_file, state)
    go_on(run_file, state, train(run_file.parent, books=0.7, code=0.3), "optimizer.lr=1e-3")


def test_another_optimizer_is_refused(run_file, state):
    other, path = "tests.support.sgd_and_adamw:SgdAndAdamW", run_file.parent / "step-3"
    with pytest.raises(UserError) as refused:
        go_on(run_file, state, f"optimizer.kind={other}")
    assert str(refused.value) == (
        f"optimizer.kind: {other} cannot use all of the optimizer state in {path}, which is that of adamw"
        + ways_out(run_file, "optimizer")
    )
    assert go_on(run_file, state, f"optimizer.kind={other}", "checkpoint.accept_changes=[optimizer]")[1] == {
        "optimizer"
    }
    go_on(run_file, dataclasses.replace(state, optimizer=other), f"optimizer.kind={other}")


def test_datasets_may_move(run_file, state):
    home = run_file.parent
    (home / "elsewhere").mkdir()
    (home / "books").rename(home / "elsewhere/books")
    go_on(run_file, state, f"data.train.0.path={home}/elsewhere/books")


FINGERPRINT = r" \(fingerprint [0-9a-f]{12}\)"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"books": 7, "code": 3, "more": 2}, rf": \S+/more{FINGERPRINT} was not part of it; set it back"),
        ({"books": 7}, rf": \S+/code{FINGERPRINT} is missing; set it back, continue this run with"),
        (
            {"books": 7, "more": 3},
            rf": \S+/more{FINGERPRINT} was not part of it; \S+/code{FINGERPRINT} is missing; set",
        ),
        (
            {"books": 8, "code": 2},
            r": the weight of \S+/books is 4 of 5, was 7 of 10; the weight of \S+/code is 1 of 5, was 3 of 10;",
        ),
        ({"code": 3, "books": 7}, r": the datasets were in another order \(\S+/books, \S+/code\); set"),
    ],
)
def test_other_datasets_are_refused_by_name(run_file, state, weights, message):
    with pytest.raises(UserError, match=rf"data.train: differs from what \S+step-3 was trained on{message}"):
        go_on(run_file, state, train(run_file.parent, **weights))
    assert go_on(run_file, state, train(run_file.parent, **weights), "checkpoint.accept_changes=[data]")[1]


def test_a_dataset_that_was_made_anew_is_refused_by_name(run_file, state, make_dataset):
    home = run_file.parent
    (home / "code").rename(home / "old")
    make_dataset("code", train=[91])
    message = rf": \S+/code{FINGERPRINT} has changed \(was [0-9a-f]{{12}}\); set it back"
    with pytest.raises(UserError, match=message):
        go_on(run_file, state)


def test_another_tokenizer_is_told_as_such(run_file, state, make_dataset):
    other = make_dataset("other", tokenizer="b" * 64, train=[50])
    with pytest.raises(
        UserError, match=r"data.train: \S+/other was made with another tokenizer than the data that"
    ):
        go_on(run_file, state, f"data.train=[{{path: {other}}}]")


def test_equal_weights_of_two_of_three_stay_equal():
    def blend(*shares: int) -> list[dict]:
        return [
            {"path": name, "fingerprint": name * 12, "share": n} for name, n in zip("abc", shares, strict=True)
        ]

    assert dataset_changes(blend(2, 2, 1), blend(4, 4, 2)) == []
    assert dataset_changes(blend(2, 2, 1), blend(1, 1, 3)) == [
        "the weight of a is 1 of 5, was 2 of 5",
        "the weight of b is 1 of 5, was 2 of 5",
        "the weight of c is 3 of 5, was 1 of 5",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed=5", r"run.seed \(was 1337\): changed since \S+step-3, which would change what"),
        ("data.stride=3", r"data.stride \(was 4\): changed"),
        ("data.sequence_length=7", r"data.sequence_length \(was 8\), data.stride \(was 4\): changed"),
        ("data.loss_on=new", r"data.loss_on \(was all\): changed"),
        ("batch.global_batch_size=16", r"batch.global_batch_size \(was 8\): changed"),
        ("batch.ramp={start: 4, increment: 2, samples: 50}", r"batch.ramp \(was not set\): changed"),
    ],
)
def test_another_order_is_refused_with_what_it_was_unless_accepted(run_file, state, override, message):
    kind = "batch" if override.startswith("batch") else "data"
    with pytest.raises(UserError, match=message) as refused:
        go_on(run_file, state, override)
    assert str(refused.value).endswith(ways_out(run_file, kind))
    other = {"batch": "data", "data": "batch"}[kind]
    with pytest.raises(UserError, match=message):
        go_on(run_file, state, override, f"checkpoint.accept_changes=[{other}, optimizer]")
    plan, kinds = go_on(run_file, state, override, f"checkpoint.accept_changes=[{kind}]")
    assert kinds == {kind}
    assert plan.batch_sizes.origin == Origin(3, 24, 192, 24 if kind == "data" else 0)


def test_a_change_that_was_accepted_once_needs_no_acceptance_again(run_file, state):
    plan, _ = go_on(run_file, state, "batch.global_batch_size=16", "checkpoint.accept_changes=[batch]")
    order = state.order | {"batch.global_batch_size": 16}
    origin = dataclasses.asdict(plan.batch_sizes.origin)
    later = dataclasses.replace(state, step=5, consumed_samples=24 + 2 * 16, order=order, origin=origin)
    path = run_file.parent / "step-3"
    config, plan = resolve(run_file, ["batch.global_batch_size=16"], 1)
    assert check_resumable(path, later, config, plan)[0].batch_sizes.origin == Origin(**origin)
    with pytest.raises(UserError, match=r"says 56 windows at step 6, where this run has read 72"):
        check_resumable(path, dataclasses.replace(later, step=6), config, plan)
    impossible = dataclasses.replace(
        later, order=order | {"batch.ramp": {"start": 3, "increment": 0, "samples": 1}}
    )
    accepting = config.override("checkpoint.accept_changes=[batch]")
    with pytest.raises(UserError, match=r"its batch sizes are impossible \(\S.*\); resume from another"):
        check_resumable(path, impossible, accepting, plan)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.n_head=2"], "model.n_head (was 1): changed since"),
        (["model.n_layer=2"], "model.n_layer (was 1): changed since"),
        (["model.n_embd=16"], "model.n_embd (was 8): changed since"),
        (["model.context_length=9"], "model.context_length (was 8): changed since"),
        (["model.n_head=4", "model.n_embd=4"], "model.n_head (was 1), model.n_embd (was 8): changed since"),
    ],
)
def test_another_model_is_refused_by_its_keys(run_file, state, overrides, message):
    with pytest.raises(UserError) as refused:
        go_on(run_file, state, *overrides)
    assert str(refused.value) == (
        f"{message} {run_file.parent}/step-3, whose weights would then compute another model; set it back, or "
        "start a new run in another run.output_dir"
        + (
            f" from its weights, with model.init_from={run_file.parent}/step-3 and model.resize=true"
            if overrides == ["model.context_length=9"]
            else ""
        )
    )
    with pytest.raises(UserError, match=re.escape(message)):  # no change of the model can be accepted
        go_on(run_file, state, *overrides, "checkpoint.accept_changes=[data, batch, optimizer]")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', not gelu_new or gelu_pytorch_tanh"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, not 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, not False"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(run_file, state, option, message):
    _, plan = resolve(run_file, [], 1)
    write_config(run_file.parent / "step-3", plan.shape, **option)
    with pytest.raises(UserError) as refused:
        go_on(run_file, state)
    assert str(refused.value) == (
        f"{run_file.parent}/step-3/config.json: {message}, which gpt2dist does not train; resume from another "
        "checkpoint"
    )


def of_manifest(digest: str | None, **said: object) -> list[dict]:
    entries = {"vocab_size": 300, "end_of_text_id": 299, "dtype": "uint16", "tokens": 9, "bytes": 30, "words": 5}
    manifest = {"manifest_sha256": digest, "manifest": entries | said} if digest else {}
    return [{"path": "books", "fingerprint": "f" * 64, "share": 1} | manifest]


def test_a_manifest_that_says_something_else_is_refused_or_told():
    before = of_manifest("a" * 64)
    assert dataset_changes(before, before) == manifest_changes(before, before) == []
    assert dataset_changes(before, of_manifest("b" * 64, vocab_size=301, bytes=60)) == [
        "vocab_size in the manifest of books is 301, was 300"
    ]
    other = of_manifest("b" * 64, bytes=60, words=6)
    assert dataset_changes(before, other) == []
    assert manifest_changes(before, other) == [
        "books/manifest.json: changed since the last start, with the same tokens: bytes is 60, was 30, "
        "words is 6, was 5"
    ]
    assert manifest_changes(before, of_manifest("b" * 64)) == [
        "books/manifest.json: changed since the last start, with the same tokens: options, sources, "
        "skipped documents, text changes or the validation split differ"
    ]


@pytest.mark.parametrize(("before", "now"), [(None, "a" * 64), ("a" * 64, None), (None, None)])
def test_manifests_are_compared_only_where_both_have_a_hash(before, now):
    old, new = of_manifest(before), of_manifest(now, vocab_size=301)
    assert dataset_changes(old, new) == manifest_changes(old, new) == []


def test_the_record_of_a_manifest(run_file):
    _, plan = resolve(run_file, [], 1)
    manifest = plan.datasets[0].dataset
    assert datasets_of(plan)[0] == {
        "path": str(run_file.parent / "books"),
        "fingerprint": manifest.fingerprint,
        "share": 7,
        "manifest_sha256": json.loads((manifest.directory / "manifest.json").read_text())["manifest_sha256"],
        "manifest": {
            **{"vocab_size": 50257, "end_of_text_id": 50256, "dtype": "uint16"},
            **{"tokens": 100, "documents": 1, "bytes": 400, "words": 100, "lm_eval_words": None},
        },
    }
