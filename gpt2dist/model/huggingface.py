"""Reader of the config.json of a Hugging Face GPT-2. Does not import torch, so that `validate` can use it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2dist.errors import UserError
from gpt2dist.model.shape import Shape

PREFIX = "transformer."
"""Prefix of the tensors' names, unless the model was saved without its output layer."""

GELU = ("gelu_new", "gelu_pytorch_tanh")
"""The two names of GPT-2's activation function."""

EMBEDDING, OUTPUT_LAYER = "wte.weight", "lm_head.weight"
"""Names without `PREFIX` of the token embedding and of the output layer, which are one tensor in a tied model."""

OPTIONS: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}
"""Options of transformers' GPT2Config, with the values in models built by gpt2dist, which are the defaults."""


def huggingface_config(shape: Shape, end_of_text_id: int, dropout: float = 0.0) -> dict[str, Any]:
    """Return the content of config.json, whose keys are the arguments of transformers' GPT2Config.

    `gelu_pytorch_tanh` is the same function as GPT-2's `gelu_new`, in one fused kernel.
    """
    return {
        **OPTIONS,
        "activation_function": "gelu_pytorch_tanh",
        "attn_pdrop": dropout,
        "bos_token_id": end_of_text_id,
        "embd_pdrop": dropout,
        "eos_token_id": end_of_text_id,
        "n_embd": shape.n_embd,
        "n_head": shape.n_head,
        "n_layer": shape.n_layer,
        "n_positions": shape.context_length,
        "resid_pdrop": dropout,
        "vocab_size": shape.vocab_size,
    }


def write_huggingface_config(directory: Path, shape: Shape, end_of_text_id: int, dropout: float) -> None:
    """Write config.json and generation_config.json, with which `from_pretrained` loads the directory."""
    names = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32"}
    config = huggingface_config(shape, end_of_text_id, dropout) | names
    generation = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def bare_name(name: str) -> str:
    """Return the name of a tensor without `PREFIX`."""
    return name.removeprefix(PREFIX)


@dataclass(frozen=True)
class Pretrained:
    """Model directory, as described by its config.json.

    Attributes:
        directory: Path of the directory.
        shape: Shape of the model.
        inner_width: Width of the layers between the two matrix products of a block's MLP.
        tied: Whether the output layer is the token embedding.
        cross_attention: Whether each block has weights for attending to an encoder.
        differences: Descriptions of the differences from a GPT-2 built by gpt2dist; empty for OpenAI's models.
    """

    directory: Path
    shape: Shape
    inner_width: int
    tied: bool
    cross_attention: bool
    differences: tuple[str, ...]

    @classmethod
    def read(cls, directory: Path) -> "Pretrained":
        """Read the config.json of a model directory.

        Raises:
            UserError: The file cannot be read, or a size is missing or invalid.
        """
        path = directory / "config.json"
        try:
            config = json.loads(path.read_bytes())
            sizes = [_size(config, key) for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")]
            inner = 4 * config["n_embd"] if config.get("n_inner") is None else _size(config, "n_inner")
            tied, cross = (_flag(config, key) for key in ("tie_word_embeddings", "add_cross_attention"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{path}: does not give the sizes of a GPT-2 ({reason}); give another model"
            ) from None
        return cls(directory, Shape(*sizes), inner, tied, cross, tuple(_differences(config)))

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by its name without `PREFIX`; a tied output layer is not one."""
        shape, width = self.shape, self.shape.n_embd
        found: dict[str, tuple[int, ...]] = {
            EMBEDDING: (shape.vocab_size, width),
            "wpe.weight": (shape.context_length, width),
            "ln_f.weight": (width,),
            "ln_f.bias": (width,),
        }
        for layer in range(shape.n_layer):
            found |= {f"h.{layer}.{name}": sizes for name, sizes in self._block().items()}
        return found if self.tied else found | {OUTPUT_LAYER: (shape.vocab_size, width)}

    def _block(self) -> dict[str, tuple[int, ...]]:
        width, inner = self.shape.n_embd, self.inner_width
        products = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }
        norms = ["ln_1", "ln_2"]
        if self.cross_attention:
            norms.append("ln_cross_attn")
            products |= {
                "crossattention.c_attn": (width, 2 * width),
                "crossattention.q_attn": (width, width),
                "crossattention.c_proj": (width, width),
            }
        found: dict[str, tuple[int, ...]] = {}
        for name, (rows, columns) in products.items():
            found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (columns,)}
        for name in norms:
            found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        return found


def _size(config: dict[str, Any], key: str) -> int:
    value = config[key]
    if type(value) is not int or value < 1:  # true is an int, too
        raise ValueError(f"{key} is {value!r}")
    return value


def _flag(config: dict[str, Any], key: str) -> bool:
    value = config.get(key, OPTIONS[key])
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}, not true or false")
    return value


def _differences(config: dict[str, Any]) -> Iterator[str]:
    activation = config.get("activation_function", GELU[0])
    if activation not in GELU:
        yield f"activation_function is {activation!r}, not {' or '.join(GELU)}"
    inner, usual = config.get("n_inner"), 4 * config["n_embd"]
    if inner not in (None, usual):
        yield f"n_inner is {inner}, not 4 × n_embd = {usual}"
    for name, ours in OPTIONS.items():
        theirs = config.get(name, ours)
        if theirs != ours:
            yield f"{name} is {theirs!r}, not {ours!r}"
