import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "autocast_bf16"), (1, "bf16"), (3, "fp16")])
def test_stages_and_precisions_that_work_together(run_file, stage, precision):
    resolve(run_file, [f"zero.stage={stage}", f"precision={precision}"], 1)


# Each message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["zero.stage=3", "precision=autocast_bf16"],
            "precision: autocast_bf16 at ZeRO stage 3 rounds some of the fp32 weights on their way in DeepSpeed, "
            "and differently after a resume; set zero.stage to 0, 1 or 2, or precision to bf16",
        ),
        (
            ["zero.stage=0", "precision=bf16"],
            "precision: bf16 at ZeRO stage 0 is silently wrong in DeepSpeed (an extra optimizer step "
            "at the start); "
            "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
        ),
        (
            ["zero.stage=0", "precision=fp16"],
            "precision: fp16 at ZeRO stage 0 is silently wrong in DeepSpeed (the loss is not scaled, "
            "the gradient is unscaled); "
            "set zero.stage to 1, 2 or 3",
        ),
        (
            ["zero.stage=0", "zero.offload_optimizer=cpu"],
            "zero.offload_optimizer: cpu needs a partitioned optimizer; set zero.stage to 1, 2 or 3, or this to "
            "none",
        ),
        (
            ["zero.stage=2", "zero.offload_parameters=cpu"],
            "zero.offload_parameters: cpu needs partitioned parameters, and stage 2 does not partition them; "
            "set zero.stage to 3, or this to none",
        ),
        (
            ["zero.stage=3", "zero.offload_optimizer=nvme"],
            "zero.offload_optimizer: nvme: checkpoints do not hold what DeepSpeed keeps there, so a run could "
            "not be resumed; set it to cpu, or train on more GPUs",
        ),
    ],
)
def test_each_mistake_of_precision_and_offloading_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]
