import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


def test_lengths_and_strides_that_are_not_given(run_file):
    unset = ["data.stride=null", "data.sequence_length=null"]
    _, plan = resolve(run_file, unset, 1)
    assert (plan.sequence_length, plan.stride, plan.evaluation_stride) == (64, 32, 32)
    _, plan = resolve(run_file, ["model.context_length=null", "evaluation.stride=7"], 1)
    assert (plan.shape.context_length, plan.stride, plan.evaluation_stride) == (32, 20, 7)


def test_a_preset_gives_the_sizes_and_a_key_beside_it_overrides_one(run_file):
    preset = "model={preset: gpt2-355m, n_layer: 3}"
    _, plan = resolve(run_file, [preset], 1)
    shape = plan.shape
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.context_length) == (3, 16, 1024, 1024)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.n_layer="],
            "model.n_layer: missing; set it, or set model.preset to gpt2-124m, gpt2-355m, gpt2-774m or "
            "gpt2-1558m",
        ),
        (
            ["model={context_length: 64}"],
            "model.preset: missing; set it to gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m, "
            "or set model.n_layer, n_head and n_embd",
        ),
        (["model.n_head=5"], "model.n_head: 5 does not divide n_embd 32; 2, 4 or 8 would"),
        (["model.n_embd=1"], "model.n_head: 4 does not divide n_embd 1; 1 would"),
        (
            ["model.context_length=", "data.sequence_length=", "data.stride="],
            "data.sequence_length: missing; set it (tokens per window)",
        ),
        (
            ["data.sequence_length=65"],
            "data.sequence_length: 65 is more than the 64 positions of the model; lower it, or raise "
            "model.context_length",
        ),
        (["data.stride=33"], "data.stride: 33 would skip tokens; it must be at most data.sequence_length 32"),
        (
            ["evaluation.stride=40"],
            "evaluation.stride: 40 would skip tokens; it must be at most data.sequence_length 32",
        ),
    ],
)
def test_each_mistake_of_model_and_lengths_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


STAGE_3 = (
    "model.compile: ZeRO stage 3 gathers parameters in hooks, which break the compiled graph at each layer and "
    "make training slower; set zero.stage to 0, 1 or 2, or model.compile to false"
)
FP32 = (
    "model.attention: flash_attention_2 computes in 16 bits, precision is fp32; set precision to bf16, fp16 or "
    "autocast_bf16, or model.attention to sdpa"
)
ISOLATE = (
    "model.attention: flash_attention_2 cannot isolate the documents of a window; "
    "set model.attention to sdpa, or data.document_boundaries to pack"
)
VARLEN = ["model.attention=varlen", "precision=bf16", "data.document_boundaries=isolate"]
DROPOUT = "model.attention: varlen has no dropout, model.dropout is 0.1; set it to 0, or model.attention to sdpa"
HEADS = (
    "model.attention: varlen takes heads whose size is a multiple of 8 up to 256, n_embd / n_head is {}; change "
    "them, or set model.attention to sdpa"
)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["model.compile=true", "zero.stage=2"], None),
        (["model.compile=true", "zero.stage=3"], [STAGE_3]),
        (["model.attention=flash_attention_2", "precision=bf16"], None),
        (["model.attention=flash_attention_2"], [FP32]),
        (["model.attention=flash_attention_2", "data.document_boundaries=isolate"], [FP32, ISOLATE]),
        (VARLEN, None),
        ([*VARLEN, "data.document_boundaries=pack"], None),
        (["model.attention=varlen"], [FP32.replace("flash_attention_2", "varlen")]),
        ([*VARLEN, "model.dropout=0.1"], [DROPOUT]),
        ([*VARLEN, "model.n_embd=1024", "model.n_head=2"], [HEADS.format(512)]),
        ([*VARLEN, "model.n_embd=48", "model.n_head=4"], [HEADS.format(12)]),
    ],
)
def test_kernels_that_do_not_go_with_the_rest(run_file, overrides, messages):
    if messages:
        assert mistakes(run_file, overrides) == messages
    else:
        resolve(run_file, overrides, 1)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("{}", ["model.preset: missing"]),  # a preset has a length
        ("{n_layer: 0}", ["model.n_layer: should be above 0", "data.sequence_length: missing"]),
        ("{preset: gpt3}", ["model.preset: 'gpt3' is not one of"]),
        ("{init_from: /none}", ["model.init_from: /none: no such directory"]),  # a model has a length
        (
            "{n_head: 3, n_embd: 8}",
            ["model.n_layer: missing", "model.n_head: 3 does not", "data.sequence_length: m"],
        ),
    ],
)
def test_no_mistake_follows_from_another_one(run_file, model, found):
    lines = mistakes(run_file, [f"model={model}", "data.sequence_length=null", "data.stride=null"])
    assert len(lines) == len(found) and all(map(str.startswith, lines, found))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("{train: [{place: x}], sequence_length: 8}", ["data.train.0.place: unknown key; known here"]),
        ("{train: [{}], sequence_length: 8}", ["data.train.0.path: missing"]),
        ("{trained: [], length: 8}", ["data.trained: unknown key", "data.length: unknown key"]),
    ],
)
def test_a_key_is_not_called_missing_beside_an_unknown_one(run_file, data, found):
    lines = mistakes(run_file, ["model={n_layer: 1, n_head: 1, n_embd: 8}", f"data={data}"])
    assert sorted(line[:24] for line in lines) == sorted(line[:24] for line in found)
