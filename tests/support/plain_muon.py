"""torch's own Muon on GPT-2, with Newton–Schulz in fp32, as the reference of ours."""

import itertools

import torch

ADAMW = {"betas": (0.9, 0.95), "eps": 1e-8}


def newton_schulz_in_fp32(grad, coefficients, steps, eps):
    """As in torch.optim.Muon, which rounds to bf16."""
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


class MuonOnConv1D:
    """torch.optim.Muon on copies of GPT-2's weights that lie as a Linear's do, q, k and v each by itself."""

    def __init__(self, named, lr_ratio, split, **options):
        torch.optim._muon._zeropower_via_newtonschulz = newton_schulz_in_fp32
        self.copies = []  # (weight, columns, copy)
        for name, weight in named:
            width = weight.shape[1] // (3 if split and "c_attn" in name else 1)
            for start in range(0, weight.shape[1], width):
                columns = slice(start, start + width)
                copy = torch.nn.Parameter(weight.detach()[:, columns].T.clone())
                self.copies.append((weight, columns, copy))
        copies = [copy for _, _, copy in self.copies]
        self.muon = torch.optim.Muon([{"params": copies, "lr_ratio": lr_ratio}], lr=0, **options)
        self.param_groups = self.muon.param_groups

    def step(self):
        for weight, columns, copy in self.copies:
            copy.grad = weight.grad[:, columns].T.clone()
        self.muon.step()
        with torch.no_grad():
            for weight, columns, copy in self.copies:
                weight[:, columns] = copy.T

    def zero_grad(self):
        for weight, _, _ in self.copies:
            weight.grad = None


class Skipping:
    """An optimizer that does nothing in one of its steps, counted from 1."""

    def __init__(self, optimizer, skipped):
        self.optimizer, self.skipped, self.count = optimizer, skipped, itertools.count(1)
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self):
        if next(self.count) != self.skipped:
            self.optimizer.step()


def muon(model, lr_ratio=10, split=True, skipped=0, decay=0.05, **options):
    """Muon on the matrices of the blocks, at a multiple of the rate, and AdamW elsewhere."""
    blocks = {n: p for n, p in model.named_parameters() if n.startswith("transformer.h.") and p.dim() == 2}
    embeddings = [p for n, p in model.named_parameters() if n not in blocks and p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    options = {"weight_decay": decay, "adjust_lr_fn": "match_rms_adamw", **options}
    groups = [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizers = [
        MuonOnConv1D(blocks.items(), lr_ratio, split, **options),
        torch.optim.AdamW(groups, **ADAMW),
    ]
    return [Skipping(each, skipped) for each in optimizers]
