"""Compute fp32 matrix products with oneDNN, for evaluation on a CPU.

torch uses MKL for fp32 products, which reaches half of oneDNN's speed on AMD CPUs (docs/log.md). It uses oneDNN
for tensors in oneDNN's own layout, but these have no gradient, so this is for evaluation only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from gpt2dist.model.lm_head import Head


class OneDnnLinear(nn.Module):
    """Linear layer that computes its product with oneDNN.

    Args:
        weight: [outputs, inputs] fp32; copied.
        bias: [outputs] fp32, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self._weight = weight.detach().contiguous().to_mkldnn()
        self._bias = None if bias is None else bias.detach().to_mkldnn()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs [..., outputs] for inputs [..., inputs], both fp32."""
        return nn.functional.linear(inputs.to_mkldnn(), self._weight, self._bias).to_dense()


def use_onednn(model: GPT2LMHeadModel) -> None:
    """Replace all layers that multiply by a weight, in place, if torch was built with oneDNN.

    Args:
        model: An fp32 model on the CPU whose output layer is a `Head`. Afterwards, it can only score.
    """
    if not torch.backends.mkldnn.is_available():
        return
    blocks: Any = model.transformer.h
    for block in blocks:
        for part in (block.attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, Conv1D):  # GPT-2's name for a linear layer with a transposed weight
                    setattr(part, name, OneDnnLinear(layer.weight.T, layer.bias))
    head = model.lm_head
    assert isinstance(head, Head)
    head.product = OneDnnLinear(head.weight[: head.vocab_size])
