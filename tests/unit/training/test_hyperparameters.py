import pytest

from gpt2dist.preflight import resolve
from gpt2dist.training.hyperparameters import hyperparameters

RUN = """
model: {preset: gpt2-124m, context_length: 64}
data: {train: [{path: DATASET, weight: 2}], validation: [{path: DATASET}], sequence_length: 32}
batch: {global_batch_size: 16, micro_batch_size: 2}
schedule: {total_tokens: 9000, warmup_steps: 2}
zero: {deepspeed: {zero_optimization: {overlap_comm: true}}}
"""


@pytest.fixture
def known(tmp_path, make_dataset):
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("DATASET", str(make_dataset(train=[2001], val=[300]))))
    config, plan = resolve(path, [], 2)
    return hyperparameters(config, plan)


def test_what_the_plan_works_out_takes_the_place_of_defaults(known):
    assert known == known | {
        **{"model.preset": "gpt2-124m", "model.n_layer": 12, "model.n_head": 12, "model.n_embd": 768},
        **{"model.context_length": 64, "data.sequence_length": 32, "data.stride": 16},
        **{"schedule.total_tokens": 9000, "schedule.warmup_steps": 2, "batch.accumulation": 4},
        **{"run.seed": 1337, "run.world_size": 2, "model.parameters": 123_702_528},
    }
    assert known["schedule.total_steps"] == 18


def test_it_is_flat_and_has_leaves_only(known):
    assert known["optimizer.betas.0"] == 0.9 and known["optimizer.betas.1"] == 0.95
    assert known["zero.deepspeed.zero_optimization.overlap_comm"] is True
    assert known["data.train.0.path"].endswith("dataset") and known["data.train.0.weight"] == 2.0
    assert known["precision"] == "fp32"
    assert {type(value) for value in known.values()} == {bool, int, float, str}


def test_what_does_not_decide_the_training_is_left_out(known):
    sections = {name.split(".")[0] for name in known}
    assert not sections & {"checkpoint", "evaluation", "monitoring"}
    assert not any(name.startswith(("data.validation", "run.name", "run.output_dir")) for name in known)
