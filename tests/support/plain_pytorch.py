"""The training loop in plain PyTorch that every ZeRO stage is compared with."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.shape import Shape
from tests.support.runs import metrics

LENGTH, STRIDE, GLOBAL, STEPS, WARMUP, LR, SEED = 32, 12, 8, 20, 5, 2e-3, 1337


def adamw(model):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)]


def plain_pytorch(
    datasets, shares, isolate=False, clip=1.0, n_embd=32, n_head=4, build_optimizers=adamw, batch=GLOBAL
):
    """One process, the whole batch, no gpt2dist in the loop: windows, loss, schedule and clipping by hand.

    Only the initial weights and the order of the windows are taken from gpt2dist. With `isolate` each document
    of each window is run by itself. A parameter group is trained with its multiple of the rate, `lr_ratio`.
    """
    manifest = Manifest.load(datasets[0])
    streams = [TokenStream.open(Manifest.load(dataset), "train") for dataset in datasets]
    texts = [torch.from_numpy(s.read(np.array([0]), len(s))[0].astype(np.int64)) for s in streams]
    windows = [1 + math.ceil((len(tokens) - 1 - LENGTH) / STRIDE) for tokens in texts]
    order = np.stack(Mixture(windows, shares, SEED)(np.arange(STEPS * batch)), axis=1).tolist()

    shape = Shape(2, n_head, n_embd, LENGTH, manifest.vocab_size)
    start = LanguageModel(shape, manifest.end_of_text_id, seed=SEED).gpt2.state_dict()
    config = GPT2Config(
        vocab_size=manifest.vocab_size,
        n_positions=LENGTH,
        n_embd=n_embd,
        n_layer=2,
        n_head=n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    for name, parameter in model.state_dict().items():
        parameter.copy_(start[name][: len(parameter)])
    optimizers = build_optimizers(model)

    losses, norms = [], []
    for step in range(STEPS):
        inputs, labels = [], []
        for dataset, window in order[step * batch : (step + 1) * batch]:
            tokens = texts[dataset]
            targets = len(tokens) - 1
            begin = min(window * STRIDE, targets - LENGTH)
            seen_to = 0 if window == 0 else (window - 1) * STRIDE + LENGTH
            places = torch.arange(begin + 1, begin + LENGTH + 1)
            inputs.append(tokens[begin : begin + LENGTH])
            labels.append(tokens[places].where(places > seen_to, torch.tensor(-100)))
        inputs, labels = torch.stack(inputs), torch.stack(labels)
        if step < WARMUP:
            rate = LR * (step + 1) / WARMUP
        else:
            done = (step + 1 - WARMUP) / (STEPS - WARMUP)
            rate = LR * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group.get("lr_ratio", 1)
        if isolate:
            apart = [
                model(part[None]).logits[0] for row in inputs for part in parts(row, manifest.end_of_text_id)
            ]
            logits = torch.cat(apart)
        else:
            logits = model(inputs).logits.flatten(0, 1)
        loss = F.cross_entropy(logits, labels.flatten(), ignore_index=-100)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms


def parts(row, end_of_text):
    """A window cut before each end-of-text."""
    borders = [place for place in (row == end_of_text).nonzero().flatten().tolist() if place]
    return row.tensor_split(borders)


def differences(run, reference):
    ours = metrics(run, "train/loss"), metrics(run, "train/grad_norm")
    assert len(ours[0]) == STEPS
    return [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in zip(ours, reference, strict=True)]
