"""Reader of the config.json of a Hugging Face GPT-2. Does not import torch, so that `validate` can use it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2dist import json_files
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
class GPT2ConfigFile:
    """The keys of config.json that decide what a GPT-2 computes, with the defaults of transformers."""

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    n_inner: int | None = None
    activation_function: str = GELU[0]
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    attn_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1

    def __post_init__(self) -> None:
        sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
        rates = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
        wrong = [key for key in sizes if getattr(self, key) < 1]
        wrong += ["n_inner"] if self.n_inner is not None and self.n_inner < 1 else []
        wrong += [key for key in rates if not 0 <= getattr(self, key) <= 1]
        if wrong:
            raise ValueError(f"{wrong[0]} is {getattr(self, wrong[0])!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")


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
            UserError: The file cannot be read, or a key is missing or invalid.
        """
        path = directory / "config.json"
        try:
            config = json_files.build(GPT2ConfigFile, json_files.load(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: does not give the sizes of a GPT-2 ({json_files.reason(error)}); give another model"
            ) from None
        sizes = (config.n_layer, config.n_head, config.n_embd, config.n_positions, config.vocab_size)
        return cls(
            directory,
            Shape(*sizes),
            config.n_inner or 4 * config.n_embd,
            config.tie_word_embeddings,
            config.add_cross_attention,
            tuple(_differences(config)),
        )

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


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of a model built by gpt2dist, by its full name, without padding."""
    model = Pretrained(Path(), shape, 4 * shape.n_embd, tied=True, cross_attention=False, differences=())
    return {PREFIX + name: sizes for name, sizes in model.parameters().items()}


def _differences(config: GPT2ConfigFile) -> Iterator[str]:
    if config.activation_function not in GELU:
        yield f"activation_function is {config.activation_function!r}, not {' or '.join(GELU)}"
    usual = 4 * config.n_embd
    if config.n_inner not in (None, usual):
        yield f"n_inner is {config.n_inner}, not 4 × n_embd = {usual}"
    for name, ours in OPTIONS.items():
        theirs = getattr(config, name)
        if theirs != ours:
            yield f"{name} is {theirs!r}, not {ours!r}"
