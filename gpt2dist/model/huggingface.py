"""Reader of the config.json of a Hugging Face GPT-2. Does not import torch, so that `validate` can use it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2dist.errors import UserError
from gpt2dist.model.shape import Shape

PREFIX = "transformer."
"""Prefix of the tensors' names, unless the model was saved without its output layer."""

GELU = ("gelu_new", "gelu_pytorch_tanh")
"""The two names of GPT-2's activation function."""

BUFFERS = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
"""Suffixes of tensors that are not parameters: causal masks in old files, and the embedding's second name."""

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
        differences: Descriptions of the differences from a GPT-2 built by gpt2dist; empty for OpenAI's models.
    """

    directory: Path
    shape: Shape
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
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{path}: does not give the sizes of a GPT-2 ({reason}); give another model"
            ) from None
        return cls(directory, Shape(*sizes), tuple(_differences(config)))


def _size(config: dict[str, Any], key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}")
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


def require_match(directory: Path, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Check that the weight files hold the model that config.json describes.

    Args:
        directory: The model directory.
        missing: Parameters that the files lack, or have in another shape.
        unknown: Tensors in the files that are not parameters of the model; ignoring them would change the model.

    Raises:
        UserError: A parameter is missing, or a tensor other than the `BUFFERS` is unknown; names the first one.
    """
    missing, unknown = sorted(missing), sorted(name for name in unknown if not name.endswith(BUFFERS))
    if missing:
        reason = f"no {missing[0]} in its files of the shape that config.json says"
    elif unknown:
        reason = f"its files have a {unknown[0]}, of which config.json does not speak"
    else:
        return
    raise UserError(f"{directory}: its model cannot be loaded ({reason}); give another checkpoint")
