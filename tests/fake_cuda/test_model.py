"""The model on a GPU: no pass mixes devices or dtypes, and a training pass never makes the host wait."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from gpt2dist.evaluation.scoring import score_batch
from gpt2dist.generation.generator import Generator
from gpt2dist.generation.sampling import Sampling
from gpt2dist.loading.loader import MicroBatch
from gpt2dist.model import chunks
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.loss import chunked_nll
from gpt2dist.model.shape import Shape
from tests.support.fake_cuda import CUDA, autocast, on_fake_cuda

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, context_length=40, vocab_size=100)
END, ROWS, LENGTH = 99, 3, 40
TOKENS = ROWS * LENGTH
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 24 tokens: a batch below has five."""
    monkeypatch.setattr(chunks, "ROWS_MULTIPLE", 24)
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", 1)


def model(dtype=torch.bfloat16, **options):
    return on_fake_cuda(lambda: LanguageModel(SHAPE, END, seed=1, **options), dtype).train()


def batch(borders=False):
    tokens = torch.empty(ROWS, LENGTH + 1, dtype=torch.uint16, device=CUDA)
    counted = torch.empty(2, ROWS, dtype=torch.int64, device=CUDA)
    more = [torch.empty(9, dtype=torch.int32, device=CUDA)] if borders else []
    return tokens, *counted, *more


def count(device, name):
    """How often an operation ran on the device, by the dtype of its result."""
    found = [(*key.split(), times) for key, times in device.operations.items()]
    return {dtype: times for operation, dtype, times in found if operation == f"aten.{name}"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["plain", "chunked"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.1, "activation_checkpointing": True}])
def test_a_training_pass_never_waits(device, dtype, loss, attention, isolate, options):
    nll = model(dtype, loss=loss, attention=attention, isolate=isolate, **options).nll_sum(*batch())
    assert (nll.device, nll.dtype, nll.shape) == (CUDA, torch.float32, ())
    assert nll.requires_grad and device.calls == []


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_under_autocast_products_are_in_16_bits_and_the_loss_is_not(device, loss):
    training = model(torch.float32, loss=loss)
    device.operations.clear()
    with autocast(torch.bfloat16):
        nll = training.nll_sum(*batch())
    assert nll.dtype == torch.float32 and device.calls == []
    assert set(count(device, "addmm.default")) == {"bfloat16"}
    assert set(count(device, "_log_softmax.default")) == {"float32"}
    # The weight is cast once, not by each product.
    assert count(device, "mm.dtype") == ({"float32": 5} if loss == "chunked" else {})


def test_under_autocast_eager_attention_has_an_fp32_softmax(device):
    training = model(torch.float32, attention="eager")
    with autocast(torch.bfloat16):
        training.nll_sum(*batch())
    assert count(device, "_softmax.default") == {"float32": SHAPE.n_layer}
    assert set(count(device, "masked_fill.Scalar")) == {"float32"}  # the mask, which is added


@pytest.mark.parametrize(("isolate", "mask"), [(False, None), (True, (ROWS, 1, LENGTH, LENGTH))])
def test_only_isolated_documents_need_a_mask_which_excludes_flash_attention(device, monkeypatch, isolate, mask):
    given, attend = [], F.scaled_dot_product_attention

    def attending(query, key, value, mask, dropout, causal, **options):
        given.append((query.shape, mask if mask is None else mask.shape, causal))
        return attend(query, key, value, mask, dropout, causal, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attending)
    model(isolate=isolate).nll_sum(*batch())
    assert given == [((ROWS, 4, LENGTH, 8), mask, not isolate)] * SHAPE.n_layer


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_varlen_calls_torchs_kernel_without_a_mask(device, dtype):
    training = model(dtype, isolate=True, attention="varlen")
    nll = training.nll_sum(*batch(borders=True))
    name = str(dtype).removeprefix("torch.")
    assert device.operations[f"torch_attn._varlen_attn.default {name}"] == SHAPE.n_layer
    assert count(device, "tril.default") == {}
    assert nll.requires_grad and device.calls == []


def test_auto_is_chunked_where_a_batch_is_more_than_a_chunk(device):
    training = model(loss="auto")
    training.nll_sum(*batch())
    assert count(device, "_log_softmax.default") == {"float32": 5}
    device.operations.clear()
    training.nll_sum(*(part[:1, :25] if part.dim() > 1 else part[:1] for part in batch()))
    assert count(device, "_log_softmax.default") == {"float32": 1}  # 24 tokens, plain
    assert device.operations["aten.scatter_add.default float32"] == 0


@pytest.mark.parametrize(("in_place", "compiling"), [(False, False), (True, False), (True, True)])
def test_products_of_16_bits_are_summed_in_fp32(device, monkeypatch, in_place, compiling):
    """In place, no tensor holds the product. Compiled, that is what Inductor makes of it anyway."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    hidden = torch.empty(ROWS, LENGTH, 32, dtype=torch.bfloat16, device=CUDA, requires_grad=True)
    weight = torch.empty(128, 32, dtype=torch.bfloat16, device=CUDA, requires_grad=True)
    targets = torch.empty(ROWS, LENGTH, dtype=torch.int64, device=CUDA)
    counted = torch.empty(ROWS, LENGTH, dtype=torch.bool, device=CUDA)
    chunked_nll(hidden, weight, targets, counted, 100, rows=40, in_place=in_place)
    products = count(device, "addmm.dtype_out"), count(device, "mm.dtype")
    assert products == (({"float32": 3}, {}) if in_place and not compiling else ({}, {"float32": 3}))


def test_products_of_fp32_are_summed_in_place(device):
    model(torch.float32, loss="chunked").nll_sum(*batch())
    assert device.operations["aten.addmm_.default float32"] == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_chunked_loss_have_the_dtype_of_the_model(device, dtype):
    hidden = torch.empty(ROWS, LENGTH, 32, dtype=dtype, device=CUDA, requires_grad=True)
    nll = model(dtype, loss="chunked").gpt2.lm_head.nll_sum(hidden, *(part[:, :LENGTH] for part in targets()))
    gradients = nll.grad_fn.apply(torch.empty((), device=CUDA))  # the backward pass of this operation alone
    assert [(each.device, each.dtype) for each in gradients if each is not None] == [(CUDA, dtype)] * 2
    assert device.calls == []


def targets():
    return (torch.empty(ROWS, LENGTH, dtype=dtype, device=CUDA) for dtype in (torch.int64, torch.bool))


@pytest.mark.parametrize("isolate", [False, True])
def test_scoring_waits_once_for_the_number_of_targets(device, isolate):
    with torch.no_grad():
        nll, greedy = model(isolate=isolate).score(*batch())
    assert (nll.dtype, greedy.dtype, nll.device, greedy.device) == (torch.float32, torch.bool, CUDA, CUDA)
    assert device.calls == [f"count bool [{ROWS}, {LENGTH}]"]


def test_scores_are_summed_on_the_host(device):
    scored = torch.empty(ROWS, LENGTH, device=CUDA), torch.empty(ROWS, LENGTH, dtype=torch.bool, device=CUDA)
    ends = np.zeros(ROWS, np.int64), np.full(ROWS, LENGTH, np.int64)
    sums = score_batch(lambda *inputs: scored, MicroBatch(np.zeros((ROWS, LENGTH + 1), np.uint16), *ends))
    assert [each.device.type for each in sums] == ["cpu", "cpu"]
    assert device.calls == [
        f"copy float32 [{ROWS}, {LENGTH}] to the host, pageable",
        f"copy bool [{ROWS}, {LENGTH}] to the host, pageable",
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
def test_the_next_logits_never_wait(device, attention):
    cache, sampling = DynamicCache(), model(attention=attention).eval()
    for length in (5, 1, 3):
        device.calls.clear()
        logits = sampling.next_logits(torch.empty(2, length, dtype=torch.int64, device=CUDA), cache)
        assert (logits.device, logits.shape) == (CUDA, (2, 1, 100))
        assert [call for call in device.calls if not call.startswith("copy bfloat16 [0]")] == []  # an empty cache
    assert cache.get_seq_length() == 9


def of_transformers():
    sizes = {"vocab_size": 100, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(**sizes, bos_token_id=END, eos_token_id=END)
    twin = on_fake_cuda(lambda: GPT2LMHeadModel(config), torch.float32)
    return lambda tokens, cache, **padding: twin(tokens, past_key_values=cache, use_cache=True, **padding).logits


@pytest.mark.parametrize(
    "how", [Sampling(), Sampling(temperature=0), Sampling(8, 1.1, 0.5, 3, 0.9)], ids=["plain", "greedy", "all"]
)
@pytest.mark.parametrize("ours", [True, False])
def test_generation_reads_only_what_it_drew(device, how, ours):
    """Prompts of one length for our model, which a run samples from; of several for that of a directory."""
    forward, prompts = (model().next_logits, [[1, 2], [3, 4]]) if ours else (of_transformers(), [[1, 2, 3], [1]])
    with torch.no_grad():
        texts = Generator(forward, 100, LENGTH, END, CUDA)(prompts, [5, 6], how)
    assert texts == [[1], [1]]
    reads = [call for call in device.calls if call.startswith("read") and "bool" not in call]
    assert reads == ["read int64 []"] * 2  # transformers reads bools to know whether to go on
