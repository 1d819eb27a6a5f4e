import pytest

from gpt2dist.config import Config
from gpt2dist.training.deepspeed_config import conflicts, deepspeed_config

MANY = 10**9  # parameters


def config(**sections) -> Config:
    return Config.model_validate(sections)


def test_batch_and_accumulation_are_ours():
    out = deepspeed_config(config(batch={"micro_batch_size": 3}), 5, MANY)
    assert out["train_micro_batch_size_per_gpu"] == 3
    assert out["gradient_accumulation_steps"] == 5


@pytest.mark.parametrize(("stage", "clipping"), [(0, 0.0), (1, 0.7), (2, 0.7), (3, 0.7)])
def test_deepspeed_clips_except_at_stage_0_where_it_knows_no_norm(stage, clipping):
    out = deepspeed_config(config(zero={"stage": stage}, optimizer={"clip_grad_norm": 0.7}), 1, MANY)
    assert out["zero_optimization"]["stage"] == stage
    assert out["gradient_clipping"] == clipping


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "autocast_bf16"])
def test_one_precision_and_no_other_is_on(precision):
    out = deepspeed_config(config(precision=precision), 1, MANY)
    on = {key for key in ("bf16", "fp16", "torch_autocast") if out.get(key, {}).get("enabled")}
    assert on == {"fp32": set(), "autocast_bf16": {"torch_autocast"}}.get(precision, {precision})


def test_bf16_gradients_are_summed_in_fp32():
    assert deepspeed_config(config(precision="bf16"), 1, MANY)["data_types"] == {"grad_accum_dtype": "fp32"}


def test_gradients_are_summed_over_ranks_in_fp32_unless_it_is_asked_for():
    for precision in ("fp32", "bf16", "fp16", "autocast_bf16"):
        assert deepspeed_config(config(precision=precision), 1, MANY)["communication_data_type"] == "fp32"
    out = deepspeed_config(config(precision="bf16", zero={"reduce_dtype": "bf16"}), 1, MANY)
    assert out["communication_data_type"] == "bf16"


def test_deepspeeds_timer_which_waits_for_the_device_is_off():
    assert deepspeed_config(config(), 1, MANY)["timers"] == {"throughput": {"enabled": False}}


@pytest.mark.parametrize("place", ["cpu", "nvme"])
def test_offloaded_state_is_in_pinned_memory(place):
    zero = {"stage": 3, "offload_optimizer": place, "offload_parameters": place}
    out = deepspeed_config(config(zero=zero), 1, MANY)["zero_optimization"]
    assert out["offload_optimizer"] == out["offload_param"] == {"device": place, "pin_memory": True}


def test_autocast_is_never_fp16():
    # fp16 autocast is silently wrong at ZeRO 1 to 3: clipping sees scaled gradients
    assert deepspeed_config(config(precision="autocast_bf16"), 1, MANY)["torch_autocast"]["dtype"] == "bfloat16"


def test_no_optimizer_or_scheduler_of_deepspeeds():
    assert not {"optimizer", "scheduler"} & set(deepspeed_config(config(), 1, MANY))


def test_raw_keys_are_merged_in_beside_ours():
    raw = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    run = config(zero={"stage": 2, "deepspeed": raw})
    out = deepspeed_config(run, 1, MANY)
    assert out["zero_optimization"].items() >= {"stage": 2, "reduce_bucket_size": 1000}.items()
    assert out["wall_clock_breakdown"] is True
    assert conflicts(run) == []


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage"),
        ({"zero_optimization": 3}, "zero_optimization"),
        ({"zero_optimization": None}, "zero_optimization"),
        ({"gradient_clipping": 1.0}, "gradient_clipping"),
        ({"gradient_clipping": {"value": 1.0}}, "gradient_clipping.value"),
        ({"train_batch_size": 8}, "train_batch_size"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps"),
        ({"optimizer": {"type": "Adam"}}, "optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types"),
        ({"communication_data_type": "bf16"}, "communication_data_type"),
        ({"timers": {"throughput": {"synchronized": False}}}, "timers"),
    ],
)
def test_raw_keys_that_would_fight_ours_are_named(raw, key):
    assert key in conflicts(config(zero={"deepspeed": raw}))


def test_conflicts_do_not_depend_on_the_precision_of_the_run():
    raw = {"bf16": {"enabled": True}}
    for precision in ("fp32", "bf16", "fp16"):
        assert "bf16" in conflicts(config(precision=precision, zero={"deepspeed": raw}))


def test_merging_leaves_the_configuration_as_it_was():
    raw = {"zero_optimization": {"reduce_bucket_size": 1000}}
    run = config(zero={"deepspeed": raw})
    deepspeed_config(run, 1, MANY)["zero_optimization"]["reduce_bucket_size"] = 5
    assert run.zero.deepspeed == {"zero_optimization": {"reduce_bucket_size": 1000}}


def zero_keys(parameters, world_size=1, **zero):
    return deepspeed_config(config(zero=zero), 1, parameters, world_size)["zero_optimization"]


@pytest.mark.parametrize(
    ("parameters", "world_size", "bucket"),
    [
        (1000, 8, 1000),
        (124_000_000, 8, 40_000_000),
        (124_000_000, 64, 64_000_000),
        (124_000_000, 1024, 124_000_000),
        (1_558_000_000, 1024, 500_000_000),
    ],
)
def test_the_bucket_grows_with_the_ranks_but_not_beyond_the_model(parameters, world_size, bucket):
    assert zero_keys(parameters, world_size, stage=2)["reduce_bucket_size"] == bucket


def test_stage_3_alone_overlaps_communication():
    overlaps = [zero_keys(MANY, stage=stage).get("overlap_comm") for stage in range(4)]
    assert overlaps == [None, False, False, True]
    assert zero_keys(MANY, stage=0) == {"stage": 0}


@pytest.mark.parametrize(
    "raw", [{"reduce_bucket_size": 7}, {"overlap_comm": True}, {"contiguous_gradients": False}], ids=str
)
def test_raw_keys_choose_how_gradients_are_sent(raw):
    zero = {"stage": 2, "deepspeed": {"zero_optimization": raw}}
    assert zero_keys(1000, **zero).items() >= raw.items()
    assert conflicts(config(zero=zero)) == []
