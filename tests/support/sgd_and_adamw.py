"""An optimizer from outside the package: SGD with momentum on the matrices of the blocks, AdamW elsewhere.

Like Muon, it has different state tensors for different parameters, options, and two learning rates.
"""

from pydantic import Field

from gpt2dist.config.schema import Section
from gpt2dist.training.optimizers.base import Supported

ADAMW = ("exp_avg", "exp_avg_sq")
SGD = ("momentum_buffer",)


class SgdOptions(Section):
    momentum: float = Field(0.9, ge=0, lt=1)
    lr: float | None = Field(None, gt=0)  # of SGD; default: optimizer.lr


class SgdAndAdamW:
    Options = SgdOptions

    def __init__(self, config, options):
        self.section = config.optimizer
        if self.section.betas[0] > self.section.betas[1]:
            raise ValueError("betas.0 is above betas.1; exchange them")
        self.options = options

    def supported(self):
        return Supported(stages=(0, 1, 2, 3), precisions=("fp32",), offload=False)

    def state_names(self, name, shape):
        return SGD if name.startswith("transformer.h.") and len(shape) == 2 else ADAMW

    def build(self, parameters):
        from tests.support.skip_step_sgd_and_adamw import SkipStepSgdAndAdamW

        named = [(self.state_names(name, tuple(each.shape)), each) for name, each in parameters]
        decay, options = self.section.weight_decay, self.options
        groups = [
            {
                "params": [p for names, p in named if names == SGD],
                "weight_decay": decay,
                "momentum": options.momentum,
                "lr_ratio": (options.lr or self.section.lr) / self.section.lr,
            },
            {"params": [p for names, p in named if names == ADAMW and p.dim() > 1], "weight_decay": decay},
            {"params": [p for names, p in named if names == ADAMW and p.dim() < 2], "weight_decay": 0.0},
        ]
        return SkipStepSgdAndAdamW(groups, self.section.lr, self.section.betas, self.section.eps)

    def describe(self):
        return f"SGD with momentum {self.options.momentum} on matrices, AdamW elsewhere"


class SgdAtStage1(SgdAndAdamW):
    def supported(self):
        return Supported(stages=(1,), precisions=("fp32", "bf16"), offload=False)
