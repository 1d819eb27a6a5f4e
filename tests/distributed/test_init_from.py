"""model.init_from: a run begins with exactly the model that it names, and with fresh moments."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, weights_of, write_run

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 32}
OTHERS = "model={init_from: MODEL, dropout: 0}"


def save_model(directory, dataset, vocab_size, dtype="float32", shards="10GB", **sizes):
    """A transformers GPT-2 with random weights of unusual size, and the dataset's tokenizer beside it.

    On a forked rank, as all tensor work here: the parent of ranks must do none.
    """
    run_ranks(save_model_here, 1, directory, dataset, vocab_size, dtype, shards, **sizes)


def save_model_here(directory, dataset, vocab_size, dtype, shards, **sizes):
    torch.manual_seed(5)
    config = GPT2Config(**SIZES | sizes, vocab_size=vocab_size, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.01)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shards)
    Tokenizer.load(dataset).save(directory)


def transformers_loss(directory, dataset, length=32):
    """The loss of the first step of a run, by transformers alone: its own labels, shifted by itself."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    stream = TokenStream.open(Manifest.load(dataset), "train")
    tokens = torch.from_numpy(stream.read(np.array([0]), len(stream))[0].astype(np.int64))
    targets = len(tokens) - 1
    windows = 1 + -(-(targets - length) // 12)
    _, chosen = Mixture([windows], [1], 1337)(np.arange(8))
    total, count = 0.0, 0
    for window in chosen.tolist():
        begin = min(window * 12, targets - length)
        seen_to = 0 if window == 0 else (window - 1) * 12 + length
        places = torch.arange(begin, begin + length + 1)
        labels = tokens[places].where(places > seen_to, -100)
        # One token more than a window, of which the last is only a label: transformers' own shift.
        logits = model(tokens[begin : begin + length][None]).logits
        loss = torch.nn.functional.cross_entropy(logits[0], labels[1:], ignore_index=-100, reduction="sum")
        total, count = total + loss.item(), count + int((labels[1:] != -100).sum())
    return total / count


def begun(config, directory, *overrides, world_size=1):
    return train(
        config,
        OTHERS.replace("MODEL", str(directory)),
        "run.stop_after_steps=1",
        *overrides,
        world_size=world_size,
    )


@pytest.fixture
def vocab_size(tiny_dataset):
    return Manifest.load(tiny_dataset).vocab_size


@pytest.mark.parametrize(
    ("kind", "stage", "world_size"),
    [({}, 0, 1), ({"shards": "20KB"}, 1, 2), ({"dtype": "float16"}, 2, 1), ({"dtype": "bfloat16"}, 3, 2)],
)
def test_the_first_loss_is_transformers_own(tiny_dataset, tmp_path, vocab_size, kind, stage, world_size):
    save_model(tmp_path / "model", tiny_dataset, vocab_size, **kind)
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) == ("shards" in kind)
    expected = run_ranks(transformers_loss, 1, tmp_path / "model", tiny_dataset)[0]
    config = write_run(tmp_path, tiny_dataset)
    run = begun(config, tmp_path / "model", f"zero.stage={stage}", world_size=world_size)
    assert metrics(run, "train/loss")[0] == pytest.approx(expected, abs=1e-5)
    recorded = json.loads((run / "environment.json").read_text())["init_from"]
    assert recorded["path"] == str(tmp_path / "model") and len(recorded["fingerprint"]) == 64


@pytest.mark.parametrize(("world_size", "offload"), [(3, "none"), (5, "cpu")])
def test_at_stage_3_the_ranks_need_not_divide_its_shapes(odd_dataset, tmp_path, world_size, offload):
    save_model(tmp_path / "model", odd_dataset, 515, n_embd=40, n_positions=33)
    config = write_run(tmp_path, odd_dataset)
    words = ["zero.stage=3", f"zero.offload_parameters={offload}", f"zero.offload_optimizer={offload}"]
    words += [f"batch.global_batch_size={world_size}", "data.sequence_length=32"]
    common = [OTHERS.replace("MODEL", str(tmp_path / "model")), *words]
    run_ranks(begin_without_a_step, world_size, config, common)
    started, given = tmp_path / "run/checkpoints/step-00000000", tmp_path / "model"
    assert run_ranks(weights_of, 1, started) == run_ranks(weights_of, 1, given)


def test_a_model_with_a_padded_vocabulary_keeps_all_its_rows(tiny_dataset, tmp_path, vocab_size):
    save_model(tmp_path / "model", tiny_dataset, vocab_size + 84)
    expected = run_ranks(transformers_loss, 1, tmp_path / "model", tiny_dataset)[0]
    run = begun(write_run(tmp_path, tiny_dataset), tmp_path / "model")
    assert metrics(run, "train/loss")[0] == pytest.approx(expected, abs=1e-5)
    saved = json.loads((run / "checkpoints/step-00000001/config.json").read_text())
    assert saved["vocab_size"] == vocab_size + 84


@pytest.fixture
def extended_dataset(tiny_dataset, tmp_path):
    """The same text under the same tokenizer with two tokens more."""
    import tokenizers

    from gpt2dist.preprocessing import PreprocessingJob, prepare

    backend = tokenizers.Tokenizer.from_str(Tokenizer.load(tiny_dataset).to_json())
    backend.add_special_tokens(["<|user|>", "<|model|>"])
    Tokenizer(backend).save(tmp_path / "tokenizer")
    prepare(
        PreprocessingJob(
            (str(tiny_dataset.parent / "corpus"),), str(tmp_path / "tokenizer"), tmp_path / "extended"
        )
    )
    return tmp_path / "extended"


def tensor(directory, name):
    for path in sorted(directory.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name)
    raise KeyError(name)


def begin_without_a_step(config, overrides):
    """Saves the weights that a run begins with."""
    from gpt2dist.training.trainer import Trainer

    Trainer.fit = lambda self: self.store.save(self.engine.state, self._state())
    from tests.support.runs import train_here

    train_here(config, overrides)


@pytest.mark.parametrize(("stage", "context"), [(1, 48), (3, 20)])
def test_resizing_keeps_what_there_was_and_begins_the_rest_as_new(
    tiny_dataset, extended_dataset, tmp_path, vocab_size, stage, context
):
    save_model(tmp_path / "model", tiny_dataset, vocab_size)
    config = write_run(tmp_path, extended_dataset)
    common = [OTHERS.replace("MODEL", str(tmp_path / "model")), f"zero.stage={stage}", "model.resize=true"]
    common += [f"model.context_length={context}", f"data.sequence_length={min(context, 32)}"]
    run_ranks(begin_without_a_step, 2, config, common)
    rows = {"wte": vocab_size + 2, "wpe": context}
    run_ranks(check_resized, 1, tmp_path / "run/checkpoints/step-00000000", tmp_path / "model", rows)


def check_resized(ours, theirs, rows):
    for name, count in rows.items():
        before, after = (tensor(each, f"transformer.{name}.weight") for each in (theirs, ours))
        kept = min(count, len(before))
        assert len(after) == count and torch.equal(after[:kept], before[:kept])
        if count > kept:
            assert 0 < after[kept:].std() < 0.04  # as in a new model; theirs are three times as large
    name = "transformer.h.1.mlp.c_fc.weight"
    assert torch.equal(tensor(ours, name), tensor(theirs, name))


def test_a_resume_needs_the_model_no_more(tiny_dataset, tmp_path, vocab_size):
    save_model(tmp_path / "model", tiny_dataset, vocab_size)
    config = write_run(tmp_path, tiny_dataset)
    overrides = [OTHERS.replace("MODEL", str(tmp_path / "model"))]
    whole = train(config, *overrides, f"run.output_dir={tmp_path}/whole")
    run = train(config, *overrides, "run.stop_after_steps=7")
    before = json.loads((run / "environment.json").read_text())["init_from"]
    shutil.rmtree(tmp_path / "model")
    train(config, *overrides)
    assert metrics(run, "train/loss") == metrics(whole, "train/loss")
    assert json.loads((run / "environment.json").read_text())["init_from"] == before


def test_another_run_can_be_gone_on_from_with_a_fresh_optimizer(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    first = train(config, "run.stop_after_steps=12")
    expected = run_ranks(transformers_loss, 1, first / "checkpoints/step-00000012", tiny_dataset)[0]
    second = begun(config, first, f"run.output_dir={tmp_path}/second")
    assert metrics(second, "train/loss")[0] == pytest.approx(expected, abs=1e-5)


def test_a_damaged_checkpoint_is_not_begun_with(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    first = train(config, "run.stop_after_steps=2")
    damaged = first / "checkpoints/step-00000002/model-00001-of-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(
        RankFailedError, match=r"UserError: model\.init_from: .* not a complete checkpoint: model-"
    ):
        begun(config, first, f"run.output_dir={tmp_path}/second")
