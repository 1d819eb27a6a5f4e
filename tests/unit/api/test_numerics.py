"""fp32 is fp32 in every call, whatever a script has chosen for its own products."""

import torch
from transformers import GPT2Model

import gpt2dist
from gpt2dist.distributed.world import World
from gpt2dist.evaluation.lambada import lambada

ALONE = World(0, 0, 1, torch.device("cpu"))


def test_a_scripts_own_tf32_neither_reaches_a_score_nor_is_lost(model, tmp_path, monkeypatch):
    seen, forward = [], GPT2Model.forward

    def noting(self, *args, **options):
        seen.append(torch.get_float32_matmul_precision())
        return forward(self, *args, **options)

    monkeypatch.setattr(GPT2Model, "forward", noting)
    calls = (
        lambda: gpt2dist.evaluate(model, documents=["abc def"], quiet=True),
        lambda: lambada(model, ["abc def"], ALONE),
        lambda: gpt2dist.generate(model, "abc", max_new_tokens=3, quiet=True),
        lambda: gpt2dist.export(model, tmp_path / "model", quiet=True),
    )
    torch.set_float32_matmul_precision("high")
    try:
        for call in calls:
            seen.clear()
            call()
            assert set(seen) == {"highest"}
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
