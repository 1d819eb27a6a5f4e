"""Check precision and offloading. DeepSpeed accepts some combinations that it computes wrongly."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem


def check_precision(config: Config) -> Iterator[Problem]:
    """Check that the precision works at the ZeRO stage."""
    precision, stage = config.precision, config.zero.stage
    if stage == 0 and precision == "bf16":
        yield Problem(
            "precision",
            "DeepSpeed computes bf16 at ZeRO stage 0 wrongly (an extra optimizer step at the start); "
            "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
        )
    if stage == 0 and precision == "fp16":
        yield Problem(
            "precision",
            "DeepSpeed computes fp16 at ZeRO stage 0 wrongly (it unscales the gradient of a loss that was not "
            "scaled); set zero.stage to 1, 2 or 3",
        )
    if stage == 3 and precision == "autocast_bf16":
        yield Problem(
            "precision",
            "DeepSpeed rounds some of the fp32 weights of autocast_bf16 when it sends them at ZeRO stage 3, and "
            "differently after a resume; set zero.stage to 0, 1 or 2, or precision to bf16",
        )


def check_reduce_dtype(config: Config) -> Iterator[Problem]:
    """Check that gradients are summed over the ranks in fp32, or in the 16 bits that they have."""
    dtype = config.zero.reduce_dtype
    if dtype not in ("fp32", config.precision):
        yield Problem(
            "zero.reduce_dtype",
            f"{dtype} is only for precision {dtype}, and would round the gradients of {config.precision}; "
            f"set it to fp32, or precision to {dtype}",
            also=("precision",),
        )


def check_offload(config: Config) -> Iterator[Problem]:
    """Check that the ZeRO stage supports offloading to host memory. NVMe is always refused."""
    zero = config.zero
    for key, place in (
        ("zero.offload_optimizer", zero.offload_optimizer),
        ("zero.offload_parameters", zero.offload_parameters),
    ):
        if place == "nvme":
            yield Problem(
                key,
                "nvme is not supported: checkpoints lack what DeepSpeed keeps there, so the run could not be "
                "resumed; set it to cpu, or train on more GPUs",
            )
    if zero.offload_optimizer == "cpu" and zero.stage == 0:
        yield Problem(
            "zero.offload_optimizer",
            "cpu needs a partitioned optimizer; set zero.stage to 1, 2 or 3, or this key to none",
            also=("zero.stage",),
        )
    if zero.offload_parameters == "cpu" and zero.stage != 3:
        yield Problem(
            "zero.offload_parameters",
            f"cpu needs partitioned parameters, and stage {zero.stage} does not partition them; set zero.stage "
            "to 3, or this key to none",
            also=("zero.stage",),
        )
