"""GPT-2's sizes and how many parameters they make. Free of torch, so that `validate` is instant."""

from dataclasses import dataclass

GPT2_VOCAB_SIZE = 50257

VOCAB_MULTIPLE = 128
"""Rows that the embedding is padded to in memory: matrix units want multiples of 64 or 128."""


@dataclass(frozen=True)
class Shape:
    """The shape of a GPT-2.

    Attributes:
        n_layer: Transformer blocks.
        n_head: Attention heads; divides `n_embd`.
        n_embd: Width of the residual stream.
        context_length: Positions that the model knows, in tokens.
        vocab_size: Token ids, without padding.
    """

    n_layer: int
    n_head: int
    n_embd: int
    context_length: int
    vocab_size: int

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in memory; checkpoints hold `vocab_size` rows."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def parameters(self) -> int:
        """Parameters with the tied embedding counted once and without padding."""
        width = self.n_embd
        block = 12 * width * width + 13 * width  # two norms, attention, the 4×-wide MLP, all with biases
        embeddings = (self.vocab_size + self.context_length) * width
        return embeddings + self.n_layer * block + 2 * width

    @property
    def padded_parameters(self) -> int:
        """Parameters in memory, with the padding of the vocabulary."""
        return self.parameters + (self.padded_vocab_size - self.vocab_size) * self.n_embd

    @property
    def parameters_without_positions(self) -> int:
        """Parameters that take part in matrix products: the N of the FLOPs formula."""
        return self.parameters - self.context_length * self.n_embd


# (n_layer, n_head, n_embd) of the four sizes that OpenAI released, all with a context of 1024.
PRESETS: dict[str, tuple[int, int, int]] = {
    "gpt2-124m": (12, 12, 768),
    "gpt2-355m": (24, 16, 1024),
    "gpt2-774m": (36, 20, 1280),
    "gpt2-1558m": (48, 25, 1600),
}
PRESET_CONTEXT_LENGTH = 1024
