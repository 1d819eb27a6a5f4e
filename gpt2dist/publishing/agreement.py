"""Check that exported files match the checkpoint that they were made from.

Each tensor must equal the checkpoint's rounded tensor bit for bit. Two comparisons of logits check the model as a
whole, config.json included. Computed in fp32, the files must give the logits of the checkpoint with rounded
weights, up to fp32 rounding. Computed in their own dtype, as they will be used, they must give the logits of the
checkpoint itself, up to rounding in that dtype: a model can overflow in it, or be too sensitive to its rounding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from gpt2dist.checkpoint.tensor_files import TensorFiles
from gpt2dist.errors import RunError, UserError
from gpt2dist.model.find_model import weight_files
from gpt2dist.model.huggingface import bare_name
from gpt2dist.model.numerics import fp32_products
from gpt2dist.model.pretrained import logits

SAFETY = 4.0
"""Ratio of the largest accepted rounding error to the expected one. Measured ratios were 0.3 to 0.9 in 16 bits,
and up to 0.4 in fp32 with another kernel (the same kernel gives the same bits). The models had 2 to 48 layers and
trained weights, initial weights, or 4 times these."""
TOKENS_IN_OWN_DTYPE = 32
"""Number of tokens in the second comparison, since a CPU may be a hundred times slower in fp16 than in fp32."""
_NOTHING = "nothing was published"


@dataclass(frozen=True)
class Difference:
    """Root mean square difference between actual and expected logits.

    Attributes:
        found: The difference, in units of the spread of the expected logits over the vocabulary.
        allowed: The largest difference that rounding explains, in the same unit.
    """

    found: float
    allowed: float

    @classmethod
    def between(
        cls, expected: Tensor, actual: Tensor, layers: int, width: int, dtype: torch.dtype
    ) -> "Difference":
        """Compare logits [B, L, V]; `layers` layers of width `width` computed the actual ones in `dtype`.

        Rounding a value to p bits changes it by at most u = 2⁻ᵖ of itself. Each layer adds rounded values to the
        residual stream, which is rounded again, and the norm after it keeps the relative error. The errors of
        layers count as independent and add up to √layers · u of the spread. The logits are rounded once more, by
        u of their own size, which can far exceed their spread: a constant added to all of them has no effect.
        In fp32, the sums in matrix products are also rounded, at each of their terms: √width times as much.
        Products of 16-bit numbers are summed in fp32.
        """
        spread = _rms(expected - expected.mean(dim=-1, keepdim=True)) or 1.0  # 0 if all weights are 0
        unit = torch.finfo(dtype).eps / 2 * (width**0.5 if dtype == torch.float32 else 1.0)
        allowed = SAFETY * unit * (layers**0.5 * spread + _rms(expected))
        return cls(_rms(actual - expected) / spread, allowed / spread)

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains the difference; False if it is not finite."""
        return self.found <= self.allowed

    def __str__(self) -> str:
        return f"{self.found:.2g} of their spread, where rounding explains {self.allowed:.2g}"


class Reference:
    """Logits of a checkpoint, computed before its files are written.

    Args:
        model: The checkpoint in fp32; its weights are rounded to `dtype` in place.
        dtype: Dtype of the files to be written.
        source: Directory of the checkpoint.

    Raises:
        UserError: The checkpoint's logits are not finite, or a weight is too large for `dtype`.
    """

    def __init__(self, model: GPT2LMHeadModel, dtype: torch.dtype, source: Path):
        self.dtype = dtype
        self._source = source
        self._sizes = (model.config.n_layer, model.config.n_embd)
        draw = torch.Generator().manual_seed(0)
        # All positions, so that all position embeddings take part; all token embeddings do through the logits.
        shape = (1, model.config.n_positions)
        self._tokens = torch.randint(model.config.vocab_size, shape, generator=draw).to(model.device)
        self._few = self._tokens[:, :TOKENS_IN_OWN_DTYPE]
        self._exact = _logits(model, self._few)
        if not self._exact.isfinite().all():
            raise UserError(
                f"{source}: its logits are not finite, so training diverged; give an earlier checkpoint"
            )
        _round_weights(model, dtype, source)
        self._rounded = _logits(model, self._tokens)

    def require(self, directory: Path) -> Difference:
        """Check that written files match the checkpoint. They are loaded as their users would load them.

        Args:
            directory: The directory that was written.

        Returns:
            The difference from the checkpoint's logits when computing in the dtype of the files.

        Raises:
            RunError: The files cannot be loaded, or do not match the checkpoint.
            UserError: The files match, but logits computed in their dtype differ by more than rounding explains.
        """
        try:
            model = _load(directory, self.dtype).to(self._tokens.device).float()
            difference = self._compare(self._rounded, _logits(model, self._tokens), torch.float32)
        except (OSError, ValueError, RuntimeError, IndexError, SafetensorError) as error:
            raise RunError(
                f"the written files cannot be used as {self._source} can ({error}); {_NOTHING}"
            ) from error
        wrong = _different_tensor(self._source, directory, self.dtype)
        if wrong or not difference.is_rounding:
            raise RunError(
                f"the written files are not {self._source}: their logits differ by {difference}; "
                f"{wrong or 'all tensors are right, so config.json is not'}; {_NOTHING}"
            )
        difference = self._compare(self._exact, _logits(model.to(self.dtype), self._few), self.dtype)
        if not difference.is_rounding:
            raise UserError(
                f"--dtype {_name(self.dtype)} does not suit this model: its logits then differ from those in "
                f"float32 by {difference}; give {_another(self.dtype)}"
            )
        return difference

    def _compare(self, expected: Tensor, actual: Tensor, dtype: torch.dtype) -> Difference:
        return Difference.between(expected, actual, *self._sizes, dtype)


def _load(directory: Path, dtype: torch.dtype) -> Any:
    """Load the model as a user of the files does.

    Raises:
        ValueError: The weights do not match config.json, or are not in `dtype`.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    model, found = loaded
    if wrong := {*found["missing_keys"], *found["unexpected_keys"]}:
        raise ValueError(f"{min(wrong)} is missing there, or is not what config.json says")
    if model.dtype != dtype:
        raise ValueError(f"they are {_name(model.dtype)}")
    return model.eval()


@torch.no_grad()
def _round_weights(model: GPT2LMHeadModel, dtype: torch.dtype, source: Path) -> None:
    """Round all weights to `dtype` in place."""
    for name, parameter in model.named_parameters():
        rounded = parameter.to(dtype)
        if not rounded.isfinite().all():
            raise UserError(
                f"--dtype {_name(dtype)}: {name} of {source} holds {parameter.abs().max():.6g}, which is beyond "
                f"its largest number ({torch.finfo(dtype).max:.6g}); give {_another(dtype)}"
            )
        parameter.copy_(rounded)


@torch.no_grad()
def _logits(model: GPT2LMHeadModel, tokens: Tensor) -> Tensor:
    """Return the logits [B, L, V], computed in the dtype of the model, as fp32 on the CPU."""
    with fp32_products(False, tokens.device):
        return logits(model, tokens).float().cpu()


def _different_tensor(source: Path, written: Path, dtype: torch.dtype) -> str:
    """Describe the first written tensor that differs from the source's; return "" if none does."""
    theirs, ours = (TensorFiles(weight_files(path)) for path in (source, written))
    names = {bare_name(name): name for name in theirs}
    for name in sorted(ours):
        if bare_name(name) not in names:
            return f"{name} is not in the checkpoint"
        expected, actual = theirs.read(names[bare_name(name)]).to(dtype).float(), ours.read(name).float()
        if expected.shape != actual.shape:
            return f"{name} has the shape {list(actual.shape)}, not {list(expected.shape)}"
        if not torch.equal(expected, actual):
            return f"{name} differs by up to {(actual - expected).abs().max().item():.3g}"
    return ""


def _rms(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor).item() / tensor.numel() ** 0.5


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _another(dtype: torch.dtype) -> str:
    return "--dtype bfloat16" if dtype == torch.float16 else "--dtype float32"
