import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.model.lm_head import Head
from gpt2dist.model.onednn import OneDnnLinear, use_onednn
from gpt2dist.model.pretrained import score


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_scores_are_those_of_the_plain_model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=75, n_positions=16, n_embd=24, n_layer=2, n_head=2, initializer_range=0.5)
    model = GPT2LMHeadModel(config).eval()
    model.lm_head = Head(model.lm_head.weight, 70)
    batch = torch.randint(0, 70, (3, 17)), torch.tensor([0, 5, 15]), torch.tensor([16, 9, 16])
    with torch.no_grad():
        plain, hits = score(model, *batch)
        use_onednn(model)
        fast, fast_hits = score(model, *batch)
    assert torch.allclose(plain, fast, rtol=1e-5, atol=1e-5) and torch.equal(hits, fast_hits)
    replaced = [name for name, layer in model.named_modules() if isinstance(layer, OneDnnLinear)]
    assert len(replaced) == 2 * 4 + 1  # attention's two and the MLP's two in each block, and the output layer
