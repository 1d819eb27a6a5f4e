"""GPT-2, and the language model that is trained.

The modules have the parameter names, layouts and arithmetic of transformers' GPT2LMHeadModel, which tests compare
them with. They are written here because importing transformers' model costs a rank as much time and memory as
everything else together.

The vocabulary is padded in memory for speed. The padding rows are zero and never reach the loss, so their
gradient is exactly zero. Checkpoints do not contain them.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2dist.model.lm_head import Head, Loss
from gpt2dist.model.loss import counted_mask
from gpt2dist.model.shape import Shape
from gpt2dist.model.varlen import document_borders, varlen_attention

T = TypeVar("T")

INIT_STD = 0.02

AttentionKernel = Literal["sdpa", "varlen", "flash_attention_2", "eager"]


class Cache(Protocol):
    """Keys and values of the tokens so far, such as transformers' DynamicCache."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, H, L, D/H] of a layer, and return all of that layer."""

    def get_seq_length(self) -> int:
        """Return the number of cached tokens."""


def causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """Return the mask [1, 1, L, past + L] bool of causal attention after `past` cached tokens."""
    return torch.ones(1, 1, length, past + length, dtype=torch.bool, device=device).tril(past)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend with torch's fused kernels; [B, H, L, d] to [B, L, H, d]."""
    causal = mask is None and query.shape[2] > 1
    out = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, scale=query.shape[-1] ** -0.5)
    return out.transpose(1, 2)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend with separate products and softmax; [B, H, L, d] to [B, L, H, d]."""
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is None and query.shape[2] > 1:
        mask = causal_mask(query.shape[2], key.shape[2] - query.shape[2], query.device)
    # The softmax is fp32 under autocast, which leaves it in 16 bits on a CPU.
    dtype = torch.float32 if torch.is_autocast_enabled(query.device.type) else weights.dtype
    if mask is not None:
        # Added, not filled in: autograd stores no tensor for a sum.
        weights = weights + torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    weights = F.dropout(weights.softmax(dim=-1).type(value.dtype), dropout)
    return (weights @ value).transpose(1, 2)


def _flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend with the flash-attn package, whose only mask is the causal one; [B, H, L, d] to [B, L, H, d]."""
    from flash_attn import flash_attn_func

    if mask is not None:
        raise ValueError("flash_attention_2 attends to whole texts only")
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    # torch's own kernels read this setting. Only newer versions of the package have the argument.
    more = {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}
    return flash_attn_func(query, key, value, dropout, query.shape[-1] ** -0.5, causal=True, **more)


def _varlen(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend within documents if the mask is their borders, else as `_sdpa`; [B, H, L, d] to [B, L, H, d]."""
    if mask is None or mask.dtype == torch.bool:
        return _sdpa(query, key, value, mask, dropout)
    if dropout:
        raise ValueError("varlen has no dropout")
    return varlen_attention(query, key, value, mask)


KERNELS = {"sdpa": _sdpa, "varlen": _varlen, "eager": _eager, "flash_attention_2": _flash}


class Conv1D(nn.Module):
    """Linear layer whose weight is [inputs, outputs], as in OpenAI's files."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        flat = torch.addmm(self.bias, inputs.reshape(-1, inputs.shape[-1]), self.weight)
        return flat.view(*inputs.shape[:-1], -1)


class Attention(nn.Module):
    """Causal multi-head self-attention.

    Args:
        shape: The sizes.
        dropout: Dropout of the attention weights and of the output.
        kernel: Implementation of the attention.
        layer: Index of the block, for the cache.
    """

    def __init__(self, shape: Shape, dropout: float, kernel: AttentionKernel, layer: int):
        super().__init__()
        self.c_attn = Conv1D(3 * shape.n_embd, shape.n_embd)
        self.c_proj = Conv1D(shape.n_embd, shape.n_embd)
        self.resid_dropout = nn.Dropout(dropout)
        self._dropout = dropout
        self._kernel = KERNELS[kernel]
        self._head_size = shape.n_embd // shape.n_head
        self._layer = layer

    def forward(self, hidden: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Attend within [B, L, D].

        Args:
            hidden: The input.
            mask: [B or 1, 1, L, cached + L] bool, True where a token may attend; None for plain causal attention.
                The kernel "varlen" also takes the result of `document_borders`.
            cache: Cache of earlier tokens, which is extended.
        """
        batch, length, width = hidden.shape
        query, key, value = (
            part.view(batch, length, -1, self._head_size).transpose(1, 2)
            for part in self.c_attn(hidden).split(width, dim=2)
        )
        if cache is not None:
            key, value = cache.update(key, value, self._layer)
        out = self._kernel(query, key, value, mask, self._dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(out.reshape(batch, length, width)))


class MLP(nn.Module):
    """Feed-forward part of a block: 4·D wide, GELU.

    `approximate="tanh"` is the function that transformers calls `gelu_new`, in one fused kernel.
    """

    def __init__(self, shape: Shape, dropout: float):
        super().__init__()
        self.c_fc = Conv1D(4 * shape.n_embd, shape.n_embd)
        self.c_proj = Conv1D(shape.n_embd, 4 * shape.n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, L, D] to [B, L, D]."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(hidden), approximate="tanh")))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, shape: Shape, dropout: float, kernel: AttentionKernel, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.n_embd)
        self.attn = Attention(shape, dropout, kernel, layer)
        self.ln_2 = nn.LayerNorm(shape.n_embd)
        self.mlp = MLP(shape, dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Map [B, L, D] to [B, L, D]; the arguments are those of `Attention`."""
        hidden = self.attn(self.ln_1(hidden), mask, cache) + hidden
        return hidden + self.mlp(self.ln_2(hidden))


class Transformer(nn.Module):
    """The embeddings, the blocks and the last norm.

    Args:
        shape: The sizes.
        dropout: Dropout probability.
        kernel: Implementation of the attention.
        activation_checkpointing: Whether to recompute each block's activations in the backward pass.
    """

    def __init__(self, shape: Shape, dropout: float, kernel: AttentionKernel, activation_checkpointing: bool):
        super().__init__()
        self.wte = nn.Embedding(shape.padded_vocab_size, shape.n_embd)
        self.wpe = nn.Embedding(shape.context_length, shape.n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(shape, dropout, kernel, layer) for layer in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.n_embd)
        self.activation_checkpointing = activation_checkpointing

    def forward(
        self,
        tokens: Tensor,
        document_separator_id: int | None = None,
        cache: Cache | None = None,
        borders: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states [B, L, D] of tokens [B, L] int64.

        Args:
            tokens: The input.
            document_separator_id: The token that starts a document, which attends to nothing before it, and at
                which positions restart; None treats a row as one text.
            cache: Cache of earlier tokens of the same texts, which is extended.
            borders: The borders of the documents instead of a mask, for the kernel "varlen".
        """
        if document_separator_id is None:
            past = 0 if cache is None else cache.get_seq_length()
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
            mask = causal_mask(tokens.shape[1], past, tokens.device) if past and tokens.shape[1] > 1 else None
        else:
            positions = segment_positions(tokens, document_separator_id)
            mask = segment_mask(tokens, document_separator_id) if borders is None else borders
        hidden = self.drop(self.wte(tokens) + self.wpe(positions))
        for block in self.h:
            if self.activation_checkpointing and self.training:
                hidden = checkpoint(block, hidden, mask, cache, use_reentrant=False)
            else:
                hidden = block(hidden, mask, cache)
        return self.ln_f(hidden)


class GPT2(nn.Module):
    """GPT-2 with its output layer, under the names of transformers' GPT2LMHeadModel.

    Args:
        shape: The sizes; the padded vocabulary is allocated.
        dropout: Dropout probability, in all three places of GPT-2.
        kernel: Implementation of the attention.
        activation_checkpointing: Whether to recompute each block's activations in the backward pass.
        loss: How the loss is computed; see `Head`.
    """

    def __init__(
        self,
        shape: Shape,
        dropout: float = 0.0,
        kernel: AttentionKernel = "sdpa",
        activation_checkpointing: bool = False,
        loss: Loss = "auto",
    ):
        super().__init__()
        self.transformer = Transformer(shape, dropout, kernel, activation_checkpointing)
        embedding: Any = self.transformer.wte.weight
        self.lm_head = Head(embedding, shape.vocab_size, loss)


class LanguageModel(nn.Module):
    """A GPT-2 with a method for each use: the loss, scores, logits and the logits of the next token.

    DeepSpeed gathers partitioned parameters around `forward` only. Its engine therefore calls the other methods
    through `forward`, as in `engine(lambda model: model.logits(tokens))`.

    Args:
        shape: The sizes; the padded vocabulary is allocated.
        end_of_text_id: Start and end of texts.
        dropout: Dropout probability, in all three places of GPT-2.
        attention: Implementation of the attention.
        activation_checkpointing: Whether to recompute each block's activations in the backward pass.
        seed: Seed of the initialisation.
        isolate: Whether attention and positions restart at each end-of-text token; see `segment_positions`.
        loss: How the loss is computed: "plain", "chunked" or "auto"; see `Head`.
        compile: Whether to compile the loss and its gradients. Logits and scores are never compiled, so that
            validation, samples and probes equal those of the uncompiled model at any length.
    """

    def __init__(
        self,
        shape: Shape,
        end_of_text_id: int,
        dropout: float = 0.0,
        attention: AttentionKernel = "sdpa",
        activation_checkpointing: bool = False,
        seed: int = 0,
        isolate: bool = False,
        loss: Loss = "auto",
        compile: bool = False,
    ):
        super().__init__()
        self._document_separator_id = end_of_text_id if isolate else None
        self._varlen = attention == "varlen"
        self.gpt2 = GPT2(shape, dropout, attention, activation_checkpointing, loss)
        initialize(self.gpt2, shape, seed)
        self._masked_nll_sum = self._nll_sum_where
        if compile:
            self._masked_nll_sum = torch.compile(self._nll_sum_where, dynamic=False)

    def forward(self, method: Callable[["LanguageModel"], T]) -> T:
        """Return `method(self)`."""
        return method(self)

    def borders(self, tokens: Tensor) -> Tensor | None:
        """Return the last argument of `nll_sum` for tokens [B, L + 1] in host memory; None if it takes none.

        It is computed there because the device would have to tell the host how many documents there are.
        """
        if self._document_separator_id is None or not self._varlen:
            return None
        return document_borders(tokens[:, :-1], self._document_separator_id)

    def nll_sum(
        self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor, borders: Tensor | None = None
    ) -> Tensor:
        """Return Σ nll over the counted targets of a micro-batch: the training loss, a scalar in fp32.

        Args:
            tokens: [B, L + 1], any integer dtype: inputs and, shifted by one, targets.
            counted_from: [B] int64, the first target in the loss.
            counted_to: [B] int64, the end (exclusive) of the targets in the loss.
            borders: The result of `borders`; None isolates documents by a mask.
        """
        # Widened here, on the device: tokens travel in the dtype of the shards.
        inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
        return self._masked_nll_sum(inputs, targets, counted_mask(targets, counted_from, counted_to), borders)

    def score(self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
        """Score each target of a micro-batch; the arguments are those of `nll_sum`.

        Returns:
            The nll [B, L] fp32 in nats, 0 where a target does not count, and [B, L] bool, whether the target is
            the likeliest token.
        """
        inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
        counted = counted_mask(targets, counted_from, counted_to)
        return self.gpt2.lm_head.each_nll(self._hidden(inputs), targets, counted)

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, L, V] of tokens [B, L] of any integer dtype, without the padding columns."""
        return self.gpt2.lm_head.logits(self._hidden(tokens.long()))

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Add tokens [B, L] int64 to the cache and return the logits [B, 1, V] of the last one."""
        return self.gpt2.lm_head.logits(self.gpt2.transformer(tokens, cache=cache)[:, -1:])

    def _hidden(self, tokens: Tensor, borders: Tensor | None = None) -> Tensor:
        return self.gpt2.transformer(tokens, self._document_separator_id, borders=borders)

    def _nll_sum_where(
        self, inputs: Tensor, targets: Tensor, counted: Tensor, borders: Tensor | None = None
    ) -> Tensor:
        return self.gpt2.lm_head.nll_sum(self._hidden(inputs, borders), targets, counted)


def named_parameters(model: LanguageModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters under their Hugging Face names; the tied output layer comes once, as embedding."""
    return model.gpt2.named_parameters()


@torch.no_grad()
def initialize(model: GPT2, shape: Shape, seed: int) -> None:
    """Initialise as GPT-2: N(0, 0.02), residual projections scaled by 1/√(2·n_layer), zero biases, unit norms.

    Radford et al. 2019, section 2.3. Parameters are drawn one by one from one generator and without the padding
    rows, so that a seed gives the same model whatever the padding.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = INIT_STD / math.sqrt(2 * shape.n_layer)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif ".ln_" in name:
            parameter.fill_(1.0)
        else:
            std = residual_std if name.endswith("c_proj.weight") else INIT_STD
            rows = shape.vocab_size if name.endswith("wte.weight") else parameter.shape[0]
            parameter[:rows].normal_(0.0, std, generator=generator)
            parameter[rows:].zero_()


def segment_positions(tokens: Tensor, document_separator_id: int) -> Tensor:
    """Return positions [B, L] int64 that restart at each end-of-text token.

    That token counts as the start of the next document rather than the end of the last one: the first token of a
    document is predicted from it, as in generation without a prompt, and the last token before it predicts it. So
    all targets of a window still count, and each is predicted from its own document alone.

    Args:
        tokens: [B, L] int64.
        document_separator_id: The end-of-text token.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = torch.where(tokens == document_separator_id, place, 0).cummax(dim=1).values
    return place - starts


def segment_mask(tokens: Tensor, document_separator_id: int) -> Tensor:
    """Return the mask [B, 1, L, L] bool of causal attention within the documents of each row."""
    document = (tokens == document_separator_id).cumsum(dim=1)
    same = document[:, None, :, None] == document[:, None, None, :]
    return same & causal_mask(tokens.shape[1], 0, tokens.device)
