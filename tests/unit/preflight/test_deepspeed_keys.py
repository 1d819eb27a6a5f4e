from typing import ClassVar

import pytest

from gpt2dist.preflight import deepspeed_keys, resolve
from tests.support.mistakes import mistakes

ZERO = "zero.deepspeed.zero_optimization"


@pytest.mark.parametrize(
    "raw",
    [
        "{zero_optimization: {reduce_bucket_size: 1000}, comms_logger: {}}",
        "{zero_optimization: {zero_quantized_weights: false, zero_hpz_partition_size: 1}}",
        "{zero_optimization: {allgather_bucket_size: 5.0e+8, overlap_comm: auto, max_live_parameters: 9}}",
        "{seq_parallel_communication_data_type: bf16, wall_clock_breakdown: true, gradient_predivide_factor: 2}",
    ],
)
def test_raw_keys_that_deepspeed_takes_and_that_touch_nothing_of_ours_are_fine(run_file, raw):
    resolve(run_file, [f"zero.deepspeed={raw}"], 1)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "{zero_optimization: {stage: 3}}",
            f"{ZERO}.stage: follows from zero.stage; remove it, and change zero.stage",
        ),
        (
            "{zero_optimization: {offload_optimizer: {device: nvme}}}",
            f"{ZERO}.offload_optimizer.device: follows from zero.offload_optimizer; remove it, and change "
            "zero.offload_optimizer",
        ),
        (
            "{zero_optimization: {cpu_offload_param: true}}",
            f"{ZERO}.cpu_offload_param: follows from zero.offload_parameters; remove it, and change "
            "zero.offload_parameters",
        ),
        (
            "{optimizer: {type: Adam}}",
            "zero.deepspeed.optimizer: follows from the optimizer section; remove it, and change the optimizer "
            "section",
        ),
        (
            "{bfloat16: {enabled: true}}",
            "zero.deepspeed.bfloat16: follows from precision; remove it, and change precision",
        ),
        (
            "{communication_data_type: bf16}",
            "zero.deepspeed.communication_data_type: follows from zero.reduce_dtype; remove it, and change "
            "zero.reduce_dtype",
        ),
        (
            "{timers: {throughput: {enabled: true, synchronized: false}}}",
            "zero.deepspeed.timers: is set by gpt2dist itself; remove it",
        ),
        ("{steps_per_print: 1}", "zero.deepspeed.steps_per_print: is set by gpt2dist itself; remove it"),
        (
            "{gradient_allreduce_op: sum}",
            "zero.deepspeed.gradient_allreduce_op: is not supported by gpt2dist: it needs averaged gradients; "
            "remove it",
        ),
        (
            "{zero_optimization: {zero_quantized_weights: true}}",
            f"{ZERO}.zero_quantized_weights: is not supported by gpt2dist: it rounds the weights of each forward "
            "pass to 8 bits; remove it",
        ),
        (
            "{zero_optimization: {zero_quantized_nontrainable_weights: true}}",
            f"{ZERO}.zero_quantized_nontrainable_weights: is not supported by gpt2dist: all weights of a run are "
            "trained; remove it",
        ),
        (
            "{zero_optimization: {zero_quantized_gradients: true}}",
            f"{ZERO}.zero_quantized_gradients: is not supported by gpt2dist: it rounds the gradients that the "
            "ranks sum to 8 and 4 bits; remove it",
        ),
        (
            "{zero_optimization: {zero_hpz_partition_size: 8}}",
            f"{ZERO}.zero_hpz_partition_size: needs partitioned parameters, and stage 2 does not partition them; "
            "set zero.stage to 3, or remove it",
        ),
        (
            "{zero_optimization: {round_robin_gradients: true}}",
            f"{ZERO}.round_robin_gradients: is not supported by gpt2dist: DeepSpeed then mixes up the weights "
            "that a checkpoint saves; remove it",
        ),
        (
            "{zero_optimization: {allgather_bucket_size: 97}}",
            f"{ZERO}.allgather_bucket_size: 97 is odd, and DeepSpeed needs a multiple of 2 at stages 1 and 2; "
            "set it to 98",
        ),
        (
            "{zero_optimization: {reduce_bucket_size: 0}}",
            f"{ZERO}.reduce_bucket_size: should be at least 1, not 0",
        ),
        (
            "{zero_optimization: {reduce_bucket_size: large}}",
            f"{ZERO}.reduce_bucket_size: should be an integer, not 'large'",
        ),
        (
            "{zero_optimization: {overlap_com: true}}",
            f"{ZERO}.overlap_com: not a key that DeepSpeed reads; did you mean zero_optimization.overlap_comm?",
        ),
        (
            "{wall_clock_brakdown: true}",
            "zero.deepspeed.wall_clock_brakdown: not a key that DeepSpeed reads; did you mean "
            "wall_clock_breakdown?",
        ),
        (
            "{amp: {enabled: true}}",
            "zero.deepspeed.amp: not a key that DeepSpeed reads; remove it, or see DeepSpeed's documentation",
        ),
        (
            "{flops_profiler: 3}",
            "zero.deepspeed.flops_profiler: should be a mapping, not 3",
        ),
        (
            "{wall_clock_breakdown: 'on'}",
            "zero.deepspeed.wall_clock_breakdown: should be true or false, not 'on'",
        ),
        (
            "{seq_parallel_communication_data_type: 3}",
            "zero.deepspeed.seq_parallel_communication_data_type: 3 is not one of fp32, fp16, bf16",
        ),
        (
            "{gradient_predivide_factor: 0}",
            "zero.deepspeed.gradient_predivide_factor: should be a number above 0, not 0",
        ),
    ],
)
def test_each_mistake_of_raw_keys_names_its_key_and_the_way_out(run_file, raw, message):
    assert mistakes(run_file, ["zero.stage=2", f"zero.deepspeed={raw}"]) == [message]


def test_the_tables_are_those_of_deepspeed():
    from gpt2dist.distributed.deepspeed_import import deepspeed

    class Recorded(dict):
        """A configuration that notes which keys are looked up."""

        read: ClassVar[set[str]] = set()

        def __getitem__(self, key):
            self.read.add(key)
            return super().__getitem__(key)

        def get(self, key, default=None):
            self.read.add(key)
            return super().get(key, default)

        def __contains__(self, key):
            self.read.add(key)
            return super().__contains__(key)

        def keys(self):
            return self

        def __copy__(self):
            return self

    module = deepspeed.runtime.config
    module.DeepSpeedConfig(Recorded(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1))
    assert Recorded.read - set(module._REMOVED_TOP_LEVEL_CONFIG_KEYS) == deepspeed_keys.READ
    zero = deepspeed.runtime.zero.config.DeepSpeedZeroConfig
    fields = {field.alias or name: field for name, field in zero.model_fields.items()}
    whole = {name for name, field in fields.items() if field.annotation is int}
    switches = {name for name, field in fields.items() if field.annotation in (bool, bool | None)}
    assert switches == deepspeed_keys.ZERO_SWITCHES
    assert whole == deepspeed_keys.ZERO_NUMBERS.keys()
    assert fields.keys() - whole - switches == deepspeed_keys.ZERO_OTHERS
