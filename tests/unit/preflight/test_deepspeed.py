import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "autocast_bf16"), (1, "bf16"), (3, "fp16")])
def test_stages_and_precisions_that_work_together(run_file, stage, precision):
    resolve(run_file, [f"zero.stage={stage}", f"precision={precision}"], 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_gradients_can_be_summed_in_16_bits(run_file, precision):
    resolve(run_file, [f"precision={precision}", f"zero.reduce_dtype={precision}"], 1)


# Each message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        *(
            (
                [f"precision={precision}", f"zero.reduce_dtype={dtype}"],
                f"zero.reduce_dtype: {dtype} is only for precision {dtype}, and would round the gradients of "
                f"{precision}; set it to fp32, or precision to {dtype}",
            )
            for precision, dtype in (
                ("fp32", "bf16"),
                ("fp32", "fp16"),
                ("autocast_bf16", "bf16"),
                ("autocast_bf16", "fp16"),
                ("fp16", "bf16"),
                ("bf16", "fp16"),
            )
        ),
        (
            ["zero.stage=3", "precision=autocast_bf16"],
            "precision: DeepSpeed rounds some of the fp32 weights of autocast_bf16 when it sends them at ZeRO "
            "stage 3, and differently after a resume; set zero.stage to 0, 1 or 2, or precision to bf16",
        ),
        (
            ["zero.stage=0", "precision=bf16"],
            "precision: DeepSpeed computes bf16 at ZeRO stage 0 wrongly (an extra optimizer step "
            "at the start); "
            "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
        ),
        (
            ["zero.stage=0", "precision=fp16"],
            "precision: DeepSpeed computes fp16 at ZeRO stage 0 wrongly (it unscales the gradient of a loss "
            "that was not scaled); "
            "set zero.stage to 1, 2 or 3",
        ),
        (
            ["zero.stage=0", "zero.offload_optimizer=cpu"],
            "zero.offload_optimizer: cpu needs a partitioned optimizer; set zero.stage to 1, 2 or 3, or this "
            "key to none",
        ),
        (
            ["zero.stage=2", "zero.offload_parameters=cpu"],
            "zero.offload_parameters: cpu needs partitioned parameters, and stage 2 does not partition them; "
            "set zero.stage to 3, or this key to none",
        ),
        (
            ["zero.stage=3", "zero.offload_optimizer=nvme"],
            "zero.offload_optimizer: nvme is not supported: checkpoints lack what DeepSpeed keeps there, so the "
            "run could "
            "not be resumed; set it to cpu, or train on more GPUs",
        ),
    ],
)
def test_each_mistake_of_precision_and_offloading_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]
