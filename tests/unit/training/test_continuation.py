"""How a run goes on after its data, batch or length was changed."""

import dataclasses

import pytest

from gpt2dist.errors import UserError
from gpt2dist.loading.batch_ramp import Origin
from gpt2dist.preflight import resolve
from gpt2dist.training.continuation import plan_from, rate_note
from tests.support.stores import trainer_state

RUN = """
model: {n_layer: 1, n_head: 1, n_embd: 8, context_length: 8}
data: {train: [{path: DATASET}], stride: 8}
batch: {global_batch_size: 4}
optimizer: {lr: 1.0}
schedule: {kind: linear, min_lr_ratio: 0, total_steps: 20}
"""


@pytest.fixture
def planned(tmp_path, make_dataset):
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("DATASET", str(make_dataset("books", train=[801]))))
    return lambda *overrides: resolve(path, list(overrides), 1)


def state(step, samples, targets, **more):
    before = trainer_state(step)
    return dataclasses.replace(before, consumed_samples=samples, consumed_tokens=targets, **more)


def test_without_a_change_the_plan_is_the_same(planned):
    config, plan = planned()
    assert plan_from(state(10, 40, 320), config, plan, data=False, batch=False) is plan


def test_a_changed_batch_goes_on_at_the_same_sample(planned):
    config, plan = planned("batch.global_batch_size=8")
    after = plan_from(state(10, 40, 320), config, plan, data=False, batch=True)
    assert after.batch_sizes.origin == Origin(10, 40, 320, 0)
    assert (after.batch_sizes.samples(10), after.batch_sizes.samples(11), after.total_steps) == (40, 48, 20)
    assert after.epochs(after.datasets[0]) == (40 + 80) / 100


def test_changed_data_starts_at_its_first_sample_and_a_later_change_of_the_batch_keeps_that(planned):
    config, plan = planned()
    after = plan_from(state(10, 40, 320), config, plan, data=True, batch=False)
    assert after.batch_sizes.origin == Origin(10, 40, 320, 40)
    assert after.epochs(after.datasets[0]) == 40 / 100
    saved = state(15, 60, 480, origin=dataclasses.asdict(after.batch_sizes.origin))
    config, plan = planned("batch.global_batch_size=8")
    assert plan_from(saved, config, plan, data=False, batch=True).batch_sizes.origin == Origin(15, 60, 480, 40)


def test_a_length_in_tokens_counts_those_before_the_change(planned):
    tokens = ["schedule.total_steps=null", "schedule.total_tokens=640"]
    assert planned(*tokens)[1].total_steps == 20
    config, plan = planned(*tokens, "batch.global_batch_size=8")
    assert plan.total_steps == 10  # had the run begun with this batch
    after = plan_from(state(10, 40, 320), config, plan, data=False, batch=True)
    assert (after.total_steps, after.total_samples) == (15, 80)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [],
            r"^schedule.total_steps: 20, but the run has done 54; set it to 54 or more, or start a new run from",
        ),
        (
            ["schedule.total_steps=null", "schedule.total_tokens=640"],
            r"^schedule.total_tokens: 640 are 20 steps, but the run has done 54; set it to 1,728 or more, or",
        ),
    ],
)
def test_an_end_that_has_passed_is_refused(planned, overrides, message):
    config, plan = planned(*overrides)
    with pytest.raises(UserError, match=message):
        plan_from(state(54, 216, 1728), config, plan, data=False, batch=False)


def test_the_learning_rate_is_said_where_it_changes(planned):
    config, plan = planned()
    done = state(20, 80, 640, lr=0.05)
    assert rate_note(done, config, plan) == ("", False)  # no step is left
    assert rate_note(dataclasses.replace(done, step=10, lr=0.5), config, plan) == ("", False)  # as before
    config, plan = planned("schedule.total_steps=40")
    assert rate_note(done, config, plan) == (
        "the learning rate was 0.05 at step 20 and is 0.475 (9.5 times) at step 21, by the changed settings; at "
        "the last step, 40, it is 0",
        True,
    )
    text, jumps = rate_note(dataclasses.replace(done, lr=0.0), config, plan)
    assert text.startswith("the learning rate was 0 at step 20 and is 0.475 at step 21, by") and jumps
    assert not rate_note(dataclasses.replace(done, lr=0.4), config, plan)[1]
