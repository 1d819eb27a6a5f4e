"""What leaves the trainer is what transformers reads, and what evaluate scores."""

import numpy as np
import torch

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.ranks import run_ranks
from tests.support.runs import train, write_run


def logits_in_the_trainer(config_path, overrides, tokens):
    """Trains, and gives the logits of the trainer's own model at the end, from rank 0."""
    from gpt2dist.distributed import launch_environment
    from gpt2dist.distributed.world import join
    from gpt2dist.preflight import resolve
    from gpt2dist.training import setup

    kept = {}

    class Watched(setup.Trainer):
        def fit(self):
            super().fit()
            kept["logits"] = self.engine.logits(torch.tensor([tokens])).numpy()

    setup.Trainer = Watched
    config, plan = resolve(config_path, overrides, launch_environment.world_size())
    setup.train(config, plan, join())
    return kept["logits"]


def read_by_transformers(checkpoint, text, tokens):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model, notes = GPT2LMHeadModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    ids = AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits.numpy(), ids


def test_transformers_reads_a_checkpoint_as_it_lies(tiny_dataset, tmp_path):
    dataset = Manifest.load(tiny_dataset)
    tokens = TokenStream.open(dataset, "val").read(np.array([5]), 32)[0].tolist()
    text = Tokenizer.load(tiny_dataset).decode(tokens)
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["zero.stage=3", "batch.micro_batch_size=4"]
    ours = run_ranks(logits_in_the_trainer, 2, config, overrides, tokens)[0]
    checkpoint = tmp_path / "run/checkpoints/step-00000020"
    theirs, ids = run_ranks(read_by_transformers, 1, checkpoint, text, tokens)[0]
    assert theirs.shape == (1, 32, dataset.vocab_size)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert ids == Tokenizer.load(tiny_dataset).encode(text).tolist()


def evaluate_here(model, dataset, output):
    from gpt2dist.cli import main

    assert main(["evaluate", str(model), "--data", str(dataset), "--stride", "12", "--output", str(output)]) == 0


def sum_by_hand(checkpoint, dataset):
    """Token by token: each with the context that its owning window gives it, one forward pass each."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    stream = TokenStream.open(Manifest.load(dataset), "val")
    tokens = stream.read(np.array([0]), len(stream))[0].astype(np.int64)
    last_start = len(tokens) - 1 - 32
    total = 0.0
    with torch.no_grad():
        for position in range(1, len(tokens)):
            window = max(0, -(-(position - 32) // 12))  # the first window that predicts it
            start = min(window * 12, last_start)
            logits = model(torch.from_numpy(tokens[None, start:position])).logits[0, -1]
            total -= logits.double().log_softmax(-1)[tokens[position]].item()
    return total, len(tokens) - 1


def test_evaluate_gives_the_same_bits_at_any_number_of_processes(tiny_dataset, tmp_path):
    import json

    run = train(write_run(tmp_path, tiny_dataset))
    results = []
    for world_size in (1, 2, 3):
        output = tmp_path / f"{world_size}.json"
        run_ranks(evaluate_here, world_size, run, tiny_dataset, output)
        results.append(json.loads(output.read_text()))
        assert results[-1].pop("world_size") == world_size
        del results[-1]["seconds"], results[-1]["tokens_per_second"]
    assert results[0] == results[1] == results[2]
    total, targets = run_ranks(sum_by_hand, 1, run / "checkpoints/step-00000020", tiny_dataset)[0]
    assert results[0]["targets"] == targets
    assert abs(results[0]["nll_sum"] / total - 1) < 1e-6
    assert results[0]["perplexity"] == np.exp(results[0]["nll_sum"] / targets)
