from gpt2dist.config import Config
from gpt2dist.model.gpt2 import LanguageModel, named_parameters
from gpt2dist.model.shape import Shape
from gpt2dist.training.optimizers import build_optimizer


def test_only_matrices_decay_and_the_tied_embedding_counts_once():
    model = LanguageModel(Shape(2, 4, 32, 16, 100), 0)
    config = Config(optimizer={"lr": 3e-4, "betas": (0.8, 0.9), "eps": 1e-7, "weight_decay": 0.2})
    decayed, plain = build_optimizer(config, named_parameters(model)).param_groups
    name_of = {id(parameter): name for name, parameter in named_parameters(model)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)
    assert all(name_of[id(p)].endswith("weight") and ".ln_" not in name_of[id(p)] for p in decayed["params"])
    assert all(name_of[id(p)].endswith("bias") or ".ln_" in name_of[id(p)] for p in plain["params"])
    together = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert sorted(together) == sorted(name_of)  # each exactly once: wte is lm_head
    assert all((g["lr"], g["betas"], g["eps"]) == (3e-4, (0.8, 0.9), 1e-7) for g in (decayed, plain))
