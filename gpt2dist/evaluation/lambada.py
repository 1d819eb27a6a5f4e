"""LAMBADA: accuracy and perplexity of a model on the last word of each passage.

Paperno et al. 2016, as computed by lm-evaluation-harness (its task `lambada_openai`). The last word is the text
after the last space, together with that space, and all its tokens are scored. Accuracy is the share of passages
in which each of these tokens is the likeliest. Perplexity is the exponential of the mean negative log-likelihood
of a passage's last word.
"""

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.continuations import encode
from gpt2dist.evaluation.measure import Measure, Sums
from gpt2dist.evaluation.measures import in_use, record
from gpt2dist.evaluation.model_forward import Dtype, find_together, load_forward, require_dtype
from gpt2dist.evaluation.scoring import OnBatch, WindowScores, ignore, score_windows
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Endings:
    """Consecutive passages in a stream, each a window that owns its last targets; see `WindowSet`.

    Attributes:
        begins: int64 [passages], stream position of each passage's first token.
        tokens: int64 [passages], number of tokens in each passage.
        scored: int64 [passages], number of tokens at the end of each passage that are scored.
    """

    begins: NDArray[np.int64]
    tokens: NDArray[np.int64]
    scored: NDArray[np.int64]

    @property
    def sequence_length(self) -> int:
        """The number of input tokens of the longest passage."""
        return int(self.tokens.max()) - 1

    @property
    def targets(self) -> int:
        """The number of scored targets in all passages."""
        return int(self.scored.sum())

    def __len__(self) -> int:
        return len(self.begins)

    def starts(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the stream position of each passage's first token."""
        return self.begins[indices]

    def owned(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of scored targets of each passage."""
        return self.scored[indices]

    def predicted(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the number of targets of each passage, scored or not."""
        return self.tokens[indices] - 1


def lambada(
    model: str | Path,
    texts: Iterable[str],
    world: World,
    batch_size: int = 8,
    zero_stage: Literal[0, 3] = 0,
    on_batch: OnBatch = ignore,
    measures: Sequence[str] = (),
    dtype: Dtype = "fp32",
) -> dict[str, Any]:
    """Score the last word of each passage. Collective.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        texts: The passages.
        world: This rank, from `gpt2dist.distributed.world.join()`.
        batch_size: Passages per forward pass.
        zero_stage: 3 partitions the parameters across the ranks; 0 gives each rank a replica.
        on_batch: As in `score_windows`.
        measures: Measures to compute besides ours and those of installed packages, as `package.module:attribute`.
        dtype: How the model computes: "fp32", "bf16", or "tf32" on a GPU.

    Returns:
        The object that `gpt2dist lambada` writes; see docs/guides/evaluation.md.

    Raises:
        UserError: The model cannot be loaded, `texts` is empty, a passage has no last word, or a measure cannot
            be used.
    """
    require_dtype(dtype, world.device)
    wanted = in_use("last_words", measures)
    found = find_together(model, world)
    directory, tokenizer = found.directory, found.tokenizer
    context_length = Pretrained.read(directory).shape.context_length
    passages = list(texts)
    stream, endings = _lay_out(passages, tokenizer, context_length)
    forward = load_forward(directory, tokenizer, None, zero_stage, world, dtype)
    began = time.monotonic()
    scores = score_windows(forward, stream, endings, batch_size, world, on_batch)
    seconds = time.monotonic() - began
    return {
        **_measured(scores, endings, wanted),
        **conditions(passages, tokenizer, dtype),
        "batch_size": batch_size,
        "zero_stage": zero_stage,
        "world_size": world.size,
        **found.recorded(),
        **({"text_changes": tokenizer.text_changes} if tokenizer.text_changes else {}),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(endings.targets / seconds, 1),
    }


def conditions(passages: Sequence[str], tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Return the settings that two results must share to be points of one curve."""
    return {"data": _fingerprint(passages), "tokenizer": tokenizer.fingerprint, "dtype": dtype}


def _measured(scores: WindowScores, endings: Endings, wanted: Sequence[Measure]) -> dict[str, Any]:
    """Return what a result says of scored passages."""
    sums = Sums(
        math.fsum(scores.nll.tolist()),
        endings.targets,
        examples=len(endings),
        correct=int(scores.greedy.sum()),
    )
    return record(sums, wanted)


def split_last_word(text: str, number: int = 1) -> tuple[str, str]:
    """Split a passage into its text before the last word, and that word with the white space before it.

    Args:
        text: The passage.
        number: Number of the passage, for messages.

    Raises:
        UserError: The passage is empty or ends in a space, so its last word is empty.
    """
    rest, _, word = text.rpartition(" ")
    if not word:
        raise UserError(
            f"passage {number} has no last word: {text[-40:]!r}; each must end with the word to guess"
        )
    bare = rest.rstrip()
    return bare, f"{rest[len(bare) :]} {word}"


def _lay_out(passages: Sequence[str], tokenizer: Tokenizer, context_length: int) -> tuple[TokenStream, Endings]:
    """Tokenise passages, with their last words as continuations; see `continuations.encode`."""
    if not passages:
        raise UserError("there are no passages; each line must be an object with a text")
    examples = [split_last_word(text, number) for number, text in enumerate(passages, 1)]
    encoded = encode(examples, tokenizer, context_length)
    lengths = np.array([len(each.tokens) for each in encoded], np.int64)
    scored = np.array([each.scored for each in encoded])
    stream = TokenStream([np.concatenate([each.tokens for each in encoded])])
    return stream, Endings(np.cumsum(lengths) - lengths, lengths, scored)


def _fingerprint(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
