"""Small GPT-2s of transformers, not yet trained."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def make_model(n_layer=3, seed=0, **options):
    """A GPT-2 in which everything matters: matrices four times those of a new one, and nothing is zero."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 300, "n_positions": 48, "n_embd": 32, "n_head": 4}
    config = GPT2Config(n_layer=n_layer, bos_token_id=299, eos_token_id=299, **sizes | options)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4 if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else 1)
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model
