"""fp32 matrix products by oneDNN, for models that score on a CPU.

torch gives fp32 products to MKL, which reaches half of oneDNN's speed on AMD's CPUs (docs/log.md). oneDNN is
reached by tensors in its own layout, which have no gradient: so this is for evaluation alone.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from gpt2dist.model.lm_head import Head


class OneDnnLinear(nn.Module):
    """A linear layer whose product is oneDNN's.

    Args:
        weight: [outputs, inputs] fp32, which is copied.
        bias: [outputs] fp32, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self._weight = weight.detach().contiguous().to_mkldnn()
        self._bias = None if bias is None else bias.detach().to_mkldnn()

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs [..., outputs] for inputs [..., inputs], fp32."""
        return nn.functional.linear(inputs.to_mkldnn(), self._weight, self._bias).to_dense()


def use_onednn(model: GPT2LMHeadModel) -> None:
    """Replaces all layers that multiply by a weight, in place, where torch was built with oneDNN.

    Args:
        model: An fp32 model on the CPU whose output layer is a `Head`. It can only score from then on.
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
