"""The part of `sgd_and_adamw` that needs torch."""

import torch


class SkipStepSgdAndAdamW(torch.optim.Optimizer):
    """Groups with a `momentum` are updated by SGD, the others by AdamW."""

    should_skip = None

    def __init__(self, groups, lr, betas, eps):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        if self.should_skip and self.should_skip():
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["step"] += 1
                    update = self.sgd if "momentum" in group else self.adamw
                    update(parameter, state, group)

    def sgd(self, parameter, state, group):
        gradient = parameter.grad + group["weight_decay"] * parameter
        state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        parameter.sub_(group["lr"] * state["momentum_buffer"])

    def adamw(self, parameter, state, group):
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        corrected = []
        for key, value, beta in zip(
            ("exp_avg", "exp_avg_sq"), (parameter.grad, parameter.grad**2), group["betas"], strict=True
        ):
            state[key].lerp_(value, 1 - beta)
            corrected.append(state[key] / (1 - beta ** state["step"]))
        parameter.sub_(group["lr"] * corrected[0] / (corrected[1].sqrt() + group["eps"]))
