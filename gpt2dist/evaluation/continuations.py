"""Score continuations: how likely a text is after another one.

LAMBADA, multiple choice and most tasks of lm-evaluation-harness ask this of a model. Continuations of the same
context are scored in one row, which computes the context once. Each of them attends to the context and to itself,
and has the positions that it would have alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.model_forward import LoadedModel
from gpt2dist.evaluation.scoring import OnBatch, WindowScores, ignore, score_batches
from gpt2dist.tokenizer.tokenizer import Tokenizer

Tokens = NDArray[np.uint32]


@dataclass(frozen=True)
class ScoredContinuation:
    """The tokens of a context and of its continuation.

    Attributes:
        tokens: uint32 [n], at most one more than the model has positions.
        scored: Number of tokens at the end that are scored, between 1 and n - 1.
    """

    tokens: Tokens
    scored: int

    @property
    def context(self) -> Tokens:
        """The tokens that are not scored."""
        return self.tokens[: -self.scored]


def encode(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, context_length: int
) -> list[ScoredContinuation]:
    """Tokenise contexts and continuations as lm-evaluation-harness does.

    The whole text is tokenised, and the continuation has the tokens that it adds to those of the context alone.
    White space at the end of the context belongs to the continuation. Without a context, the continuation follows
    an end-of-text. If there are more tokens than positions, the first ones are omitted.

    Args:
        pairs: Context and continuation of each.
        tokenizer: The model's tokenizer.
        context_length: Number of positions of the model.
    """
    split = [_move_white_space(context, continuation) for context, continuation in pairs]
    contexts = list(dict.fromkeys(context for context, _ in split))
    known = {context: len(tokens) for context, tokens in zip(contexts, _encode(contexts, tokenizer), strict=True)}
    wholes = _encode([context + continuation for context, continuation in split], tokenizer)
    return [
        _continuation(tokens, known[context], tokenizer.end_of_text_id, context_length)
        for (context, _), tokens in zip(split, wholes, strict=True)
    ]


def _move_white_space(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _continuation(tokens: Tokens, known: int, end_of_text_id: int, context_length: int) -> ScoredContinuation:
    if not known:
        tokens = np.concatenate([np.array([end_of_text_id], np.uint32), tokens])
    # At least one target, in case the continuation merges into the token before it.
    scored = max(1, len(tokens) - max(known, 1))
    kept = tokens[-(context_length + 1) :]
    return ScoredContinuation(kept, min(scored, len(kept) - 1))


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Tokens]:
    if not texts:
        return []
    tokens, lengths = tokenizer.encode_batch(texts)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def score_continuations(
    model: LoadedModel,
    continuations: Sequence[ScoredContinuation],
    batch_size: int,
    world: World,
    on_batch: OnBatch = ignore,
) -> WindowScores:
    """Score the continuation of each context. Collective.

    For the same batch size, the scores have the same bits for any number of ranks.

    Args:
        model: The model.
        continuations: The same on all ranks.
        batch_size: Rows per forward pass. A row has the continuations of one context, as many as fit.
        world: This rank.
        on_batch: As in `score_windows`.
    """
    if not continuations:
        return WindowScores(np.zeros(0), np.zeros(0, bool))
    rows = _rows(continuations, model.context_length)
    rows.sort(key=lambda row: -row.inputs)  # stable, so that rows in a batch have similar lengths
    grouped = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]
    return score_batches(
        lambda number: _score(model, grouped[number], continuations),
        [np.concatenate([row.members for row in group]) for group in grouped],
        np.array([each.scored for each in continuations]),
        world,
        on_batch,
    )


@dataclass
class _Row:
    """Continuations of one context that are scored together.

    Attributes:
        members: Number of each continuation.
        inputs: Number of inputs: the context, and each continuation without its last token.
    """

    members: list[int]
    inputs: int


def _rows(continuations: Sequence[ScoredContinuation], context_length: int) -> list[_Row]:
    """Put continuations of the same context into rows of at most `context_length` inputs. O(n)."""
    rows: list[_Row] = []
    last_of: dict[bytes, _Row] = {}
    for number, each in enumerate(continuations):
        context = each.context.tobytes()
        row, more = last_of.get(context), each.scored - 1
        if row is None or row.inputs + more > context_length:
            row = last_of[context] = _Row([], len(each.context))
            rows.append(row)
        row.members.append(number)
        row.inputs += more
    return rows


def _score(
    model: LoadedModel, rows: Sequence[_Row], continuations: Sequence[ScoredContinuation]
) -> tuple[Tensor, Tensor]:
    """Return Σ nll (float64) and whether all targets are the likeliest tokens, of all members in order."""
    members = [[continuations[number] for number in row.members] for row in rows]
    width = max(row.inputs for row in rows)
    most = max(sum(each.scored for each in row) for row in members)
    tokens, positions, branches = (np.zeros((len(rows), width), np.int64) for _ in range(3))
    sources, targets = (np.zeros((len(rows), most), np.int64) for _ in range(2))
    counted = np.zeros((len(rows), most), bool)
    for index, row in enumerate(members):
        known = len(row[0].context)
        tokens[index, :known] = row[0].context
        positions[index, :known] = np.arange(known)
        begin, first = known, 0  # of the next continuation's inputs, and of its targets
        for branch, each in enumerate(row, 1):
            inner, ends = each.scored - 1, begin + each.scored - 1
            tokens[index, begin:ends] = each.tokens[known:-1]
            positions[index, begin:ends] = np.arange(known, known + inner)
            branches[index, begin:ends] = branch
            place = slice(first, first + each.scored)
            sources[index, place] = [known - 1, *range(begin, ends)]  # the context's end predicts the first
            targets[index, place] = each.tokens[known:]
            counted[index, place] = True
            begin, first = ends, first + each.scored
    alone = all(len(row) == 1 for row in members)
    nll, greedy = model.score_branches(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        None if alone else torch.from_numpy(branches),
        torch.from_numpy(sources),
        torch.from_numpy(targets),
        torch.from_numpy(counted),
    )
    # Sum on the CPU, since sums on a GPU may be nondeterministic.
    sizes = [each.scored for row in members for each in row]
    parts = nll.cpu().double()[torch.from_numpy(counted)].split(sizes)
    hits = greedy.cpu()[torch.from_numpy(counted)].split(sizes)
    return torch.stack([part.sum() for part in parts]), torch.stack([hit.all() for hit in hits])
