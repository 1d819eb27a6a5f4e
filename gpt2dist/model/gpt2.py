"""transformers' GPT-2, built to a shape and initialised as OpenAI did.

The vocabulary is padded in memory for speed; the padding rows are zero, never reach the loss, so their gradient
is exactly zero, and are cut off in checkpoints.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from gpt2dist.errors import UserError
from gpt2dist.model.huggingface import require_match
from gpt2dist.model.lm_head import Head, Loss
from gpt2dist.model.loss import counted_mask
from gpt2dist.model.shape import Shape

INIT_STD = 0.02

CAUSAL_SDPA = "causal_sdpa"
"""torch's attention without a mask. To find out whether one is needed transformers reads a value from the device
in each pass, for which the host waits; under torch.compile it makes one in any case. Whole windows need none."""

AttentionInterface.register(CAUSAL_SDPA, sdpa_attention_forward)


def huggingface_config(shape: Shape, end_of_text_id: int, dropout: float = 0.0) -> GPT2Config:
    """The model's config.json.

    `gelu_pytorch_tanh` is the same function as GPT-2's `gelu_new` in one fused kernel.
    """
    return GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context_length,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
    )


def write_huggingface_config(directory: Path, shape: Shape, end_of_text_id: int, dropout: float) -> None:
    """Writes config.json and generation_config.json for `from_pretrained`."""
    config = huggingface_config(shape, end_of_text_id, dropout)
    config.architectures = ["GPT2LMHeadModel"]
    config.dtype = "float32"
    config.save_pretrained(directory)
    GenerationConfig(bos_token_id=end_of_text_id, eos_token_id=end_of_text_id).save_pretrained(directory)


class LanguageModel(nn.Module):
    """A GPT-2 that maps tokens to logits over the unpadded vocabulary, or to the loss of a micro-batch.

    Args:
        shape: The shape; its padded vocabulary is what is allocated.
        end_of_text_id: Begins and ends texts.
        dropout: Probability, in all three places of GPT-2.
        attention: transformers' attention implementation: "sdpa", "flash_attention_2" or "eager".
        activation_checkpointing: Recomputes each block's activations in the backward pass.
        seed: Of the initialisation.
        isolate: Whether attention and positions begin anew at each end-of-text token; see `segment_positions`.
        loss: How the loss is computed: "plain", "chunked" or "auto"; see `Head`.
        compile: Compiles the loss and its gradients; logits are computed as written all the same, so that
            validation, samples and probes are those of the uncompiled model at any length.
    """

    def __init__(
        self,
        shape: Shape,
        end_of_text_id: int,
        dropout: float = 0.0,
        attention: str = "sdpa",
        activation_checkpointing: bool = False,
        seed: int = 0,
        isolate: bool = False,
        loss: Loss = "auto",
        compile: bool = False,
    ):
        super().__init__()
        self._document_separator_id = end_of_text_id if isolate else None
        config = huggingface_config(shape, end_of_text_id, dropout)
        config.vocab_size = shape.padded_vocab_size
        config.use_cache = False
        if attention == "sdpa" and not isolate:
            attention = CAUSAL_SDPA
        self.gpt2 = GPT2LMHeadModel._from_config(config, attn_implementation=attention)
        initialize(self.gpt2, shape, seed)
        self.gpt2.lm_head = Head(self.gpt2.lm_head.weight, shape.vocab_size, loss)
        self._nll_sum = torch.compile(self.nll_sum, dynamic=False) if compile else self.nll_sum
        if activation_checkpointing:
            # The newer name of two; transformers 6 drops the older one.
            enable = getattr(self.gpt2, "activation_checkpointing_enable", None)
            (enable or self.gpt2.gradient_checkpointing_enable)({"use_reentrant": False})

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [B, L, V] of the tokens [B, L] (any integer dtype), without the padding columns."""
        return logits(self.gpt2, tokens, self._document_separator_id)

    def score(self, tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
        """The nll of each target of a micro-batch; see the function `score`."""
        return score(self.gpt2, tokens, counted_from, counted_to, self._document_separator_id)

    def forward(
        self,
        tokens: Tensor,
        counted_from: Tensor | None = None,
        counted_to: Tensor | None = None,
        each: bool = False,
        cache: Cache | None = None,
    ) -> Any:
        """Σ nll of a micro-batch, the nll of each of its targets, or logits.

        Args:
            tokens: [B, L + 1]: inputs and, shifted by one, targets; without bounds [B, L] inputs.
            counted_from: [B] int64, first target in the loss; None asks for logits.
            counted_to: [B] int64, behind the last target in the loss.
            each: Asks for what `score` returns.
            cache: Keys and values of what stands before the tokens; takes theirs in. Asks for the last logits.

        Returns:
            Scalar fp32 Σ nll over the counted targets, the two tensors of `score`, or logits [B, L, V], with a
            cache [B, 1, V].
        """
        if cache is not None:
            return self.gpt2(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        if counted_from is None or counted_to is None:
            return self.logits(tokens)
        if each:
            return self.score(tokens, counted_from, counted_to)
        # Widened here, on the device: what travels is as narrow as the shards.
        inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
        return self._nll_sum(inputs, targets, counted_mask(targets, counted_from, counted_to))

    def nll_sum(self, inputs: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Σ nll over the counted [B, L] of the targets [B, L] int64, from the inputs [B, L] int64."""
        return self.gpt2.lm_head(hidden_states(self.gpt2, inputs, self._document_separator_id), targets, counted)


def logits(model: GPT2LMHeadModel, tokens: Tensor, document_separator_id: int | None = None) -> Tensor:
    """Logits [B, L, V] of the tokens [B, L] (any integer dtype).

    Args:
        model: The model.
        tokens: The tokens.
        document_separator_id: The token that begins a document, from which nothing before is seen; None: all is
            seen.
    """
    return model.lm_head(hidden_states(model, tokens.long(), document_separator_id))


def score(
    model: GPT2LMHeadModel,
    tokens: Tensor,
    counted_from: Tensor,
    counted_to: Tensor,
    document_separator_id: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The nll of each target of a micro-batch, and whether it is the likeliest token; see `each_nll`.

    Args:
        model: A model whose output layer is a `Head`.
        tokens: [B, L + 1], any integer dtype: inputs and, shifted by one, targets.
        counted_from: [B] int64, first target that counts.
        counted_to: [B] int64, behind the last one.
        document_separator_id: As of `logits`.

    Returns:
        [B, L] fp32 in nats, 0 where a target does not count, and [B, L] bool.
    """
    inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
    counted = counted_mask(targets, counted_from, counted_to)
    return model.lm_head(hidden_states(model, inputs, document_separator_id), targets, counted, each=True)


def hidden_states(model: GPT2LMHeadModel, tokens: Tensor, document_separator_id: int | None) -> Tensor:
    """What the output layer sees, [B, L, D], of the tokens [B, L] int64."""
    out = model.transformer(
        input_ids=tokens, position_ids=positions(tokens, document_separator_id), use_cache=False
    )
    return out.last_hidden_state


def positions(tokens: Tensor, document_separator_id: int | None) -> Tensor | None:
    """What transformers is given as `position_ids`: None, or positions that begin anew at a border.

    Where positions begin anew, transformers lets attention begin anew too.
    """
    return None if document_separator_id is None else segment_positions(tokens, document_separator_id)


def segment_positions(tokens: Tensor, document_separator_id: int) -> Tensor:
    """Positions that begin anew at each end-of-text token.

    That token is the beginning of the next document rather than the end of the last: it is what the first token
    of a document is predicted from, as in generation from nothing, and the last token before it predicts it. So
    all targets of a window count as ever, and each is predicted from its own document alone.

    Args:
        tokens: [B, L] int64.
        document_separator_id: The end-of-text token.

    Returns:
        [B, L] int64.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    begins = torch.where(tokens == document_separator_id, place, 0).cummax(dim=1).values
    return place - begins


def named_parameters(model: LanguageModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under their Hugging Face names; the tied output layer is the embedding and appears once."""
    return model.gpt2.named_parameters()


@torch.no_grad()
def initialize(model: GPT2LMHeadModel, shape: Shape, seed: int) -> None:
    """Initialises as GPT-2: N(0, 0.02), residual projections scaled by 1/√(2·n_layer), zero biases, unit norms.

    Radford et al. 2019, section 2.3. Drawn parameter by parameter from one generator and without the padding
    rows, so that a seed gives the same model whatever the padding or the version of transformers.
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


def load_pretrained(directory: Path, device: torch.device) -> GPT2LMHeadModel:
    """A model for evaluation and generation, in fp32, without dropout and with a `Head`.

    Raises:
        UserError: Its files cannot be read as a GPT-2.
    """
    transformers.utils.logging.disable_progress_bar()  # its bar would only flash between ours
    transformers.utils.logging.set_verbosity_error()  # what it reports, and goes on with, is refused below
    try:
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            directory,
            attn_implementation="sdpa",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{directory}: its model cannot be loaded ({reason}); give another checkpoint") from error
    model, found = loaded
    # transformers would go on, with random numbers there
    missing = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    require_match(directory, missing, found["unexpected_keys"])
    model.lm_head = Head(model.lm_head.weight, model.config.vocab_size)
    return model.to(device).eval()


def require_vocabulary(model: GPT2LMHeadModel, vocab_size: int, directory: Path) -> None:
    """Refuses a model that does not know all ids of the tokenizer beside it.

    Raises:
        UserError: It knows fewer.
    """
    if model.config.vocab_size < vocab_size:
        raise UserError(
            f"{directory}: its model knows {model.config.vocab_size} tokens, its tokenizer has {vocab_size}; "
            "put the tokenizer there that the model was trained with"
        )
