"""GPT-2's sizes and parameter counts. Does not import torch, so that `validate` is instant."""

from dataclasses import dataclass

GPT2_VOCAB_SIZE = 50257

VOCAB_MULTIPLE = 128
"""Divisor of the number of embedding rows in memory: matrix units need multiples of 64 or 128."""


@dataclass(frozen=True)
class Shape:
    """Shape of a GPT-2.

    Attributes:
        n_layer: Number of transformer blocks.
        n_head: Number of attention heads; divides `n_embd`.
        n_embd: Width of the residual stream.
        context_length: Number of positions, in tokens.
        vocab_size: Number of token ids, without padding.
    """

    n_layer: int
    n_head: int
    n_embd: int
    context_length: int
    vocab_size: int

    @property
    def padded_vocab_size(self) -> int:
        """The number of embedding rows in memory; checkpoints hold `vocab_size` rows."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def parameters(self) -> int:
        """The number of parameters, without padding; the tied embedding counts once."""
        width = self.n_embd
        block = 12 * width * width + 13 * width  # two norms, attention and the 4× wide MLP, with biases
        embeddings = (self.vocab_size + self.context_length) * width
        return embeddings + self.n_layer * block + 2 * width

    @property
    def padded_parameters(self) -> int:
        """The number of parameters in memory, with the padding of the vocabulary."""
        return self.parameters + (self.padded_vocab_size - self.vocab_size) * self.n_embd

    @property
    def parameters_without_positions(self) -> int:
        """The number of parameters without position embeddings: the N of the FLOPs formula."""
        return self.parameters - self.context_length * self.n_embd


# (n_layer, n_head, n_embd) of the four sizes that OpenAI released, all with a context of 1024.
PRESETS: dict[str, tuple[int, int, int]] = {
    "gpt2-124m": (12, 12, 768),
    "gpt2-355m": (24, 16, 1024),
    "gpt2-774m": (36, 20, 1280),
    "gpt2-1558m": (48, 25, 1600),
}
PRESET_CONTEXT_LENGTH = 1024
