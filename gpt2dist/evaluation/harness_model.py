"""The model as lm-evaluation-harness sees it: rank 0 asks, all ranks compute."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from gpt2dist.distributed.world import World
from gpt2dist.errors import PeerLostError, UserError
from gpt2dist.evaluation.continuations import ScoredContinuation, Tokens, encode, score_continuations
from gpt2dist.evaluation.model_forward import LoadedModel
from gpt2dist.evaluation.scoring import OnBatch
from gpt2dist.generation.generator import Generator
from gpt2dist.generation.sampling import Sampling
from gpt2dist.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")

MAX_NEW_TOKENS = 256
"""The harness's default for tasks that do not state the length of what they generate."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks use for this length; the first one given counts."""


@dataclass(frozen=True)
class Answers:
    """Answers requests on all ranks. Each method is collective, and all ranks give it the same requests.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        world: This rank.
        batch_size: Rows per forward pass.
        partitioned: Whether each forward pass needs all ranks (ZeRO stage 3).
        on_batch: As in `score_windows`.
    """

    model: LoadedModel
    tokenizer: Tokenizer
    world: World
    batch_size: int
    partitioned: bool
    on_batch: OnBatch

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation after its context, and whether it is the likeliest."""
        nll, greedy = self._score(encode(pairs, self.tokenizer, self.model.context_length))
        return list(zip((-nll).tolist(), greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[tuple[str]]) -> list[float]:
        """Return the log-likelihood of each text, all of whose tokens follow an end-of-text."""
        windows: list[ScoredContinuation] = []
        ends = []
        for (text,) in requests:
            windows += self._windows(self.tokenizer.encode(text))
            ends.append(len(windows))
        nll, _ = self._score(windows)
        sums = [float(each.sum()) for each in np.split(nll, ends)[:-1]]
        return [-each for each in sums]

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Continue each text until one of its stop sequences, which is not part of the result."""
        batches = list(_alike(requests, self.batch_size))
        mine = batches if self.partitioned else batches[self.world.rank :: self.world.size]
        texts: dict[int, str] = {}
        for numbers in mine:
            texts |= zip(numbers, self._generate(numbers, requests), strict=True)
        everything: dict[int, str] = {}
        for each in [texts] if self.partitioned else self.world.gather(texts):
            everything |= each
        return [everything[number] for number in range(len(requests))]

    def _score(self, continuations: list[ScoredContinuation]) -> tuple[np.ndarray, np.ndarray]:
        scores = score_continuations(self.model, continuations, self.batch_size, self.world, self.on_batch)
        return scores.nll, scores.greedy

    def _windows(self, tokens: Tokens) -> Iterator[ScoredContinuation]:
        """Yield windows over a text as the harness does: they do not overlap, and the last one is full."""
        length = self.model.context_length
        stream = np.concatenate([np.array([self.tokenizer.end_of_text_id], np.uint32), tokens])
        for begin in range(0, len(tokens), length):
            end = min(begin + length, len(tokens))
            yield ScoredContinuation(stream[max(0, end - length) : end + 1], end - begin)

    def _generate(self, numbers: Sequence[int], requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        options = requests[numbers[0]][1]
        how, stops = _sampling(options), _stops(options)
        generator = Generator(
            self.model.last_logits,
            self.tokenizer.vocab_size,
            self.model.context_length,
            self.tokenizer.end_of_text_id,
            self.model.device,
        )
        # The harness keeps the end of a long prompt, with room for the new tokens.
        room = self.model.context_length - how.max_new_tokens
        kept = room if room > 0 else max(1, self.model.context_length // 2)
        prompts = [self.tokenizer.encode(requests[number][0])[-kept:].tolist() for number in numbers]

        def is_done(tokens: Sequence[int]) -> bool:
            return any(stop in self.tokenizer.decode(tokens) for stop in stops)

        # A partitioned model runs the same number of passes on all ranks.
        continued = generator(
            prompts, numbers, how, self.partitioned, is_done=None if self.partitioned else is_done
        )
        self.on_batch(sum(map(len, continued)), 0)
        texts = map(self.tokenizer.decode_after, prompts, continued)
        return [_until(text, stops) for text in texts]


class HarnessModel(LM):
    """The model in the harness, on rank 0.

    Args:
        ask: Answers requests, given the name of a method of `Answers` and its argument.

    Attributes:
        before: Called before the first request of a task; None if there is nothing to do.
    """

    def __init__(self, ask: Callable[[str, list[Any]], list[Any]]):
        super().__init__()
        self._ask = ask
        self.before: Callable[[], None] | None = None

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """See `Answers.loglikelihood`."""
        return self._answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """See `Answers.loglikelihood_rolling`."""
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """See `Answers.generate_until`."""
        return self._answer("generate_until", requests)

    def _answer(self, method: str, requests: list[Instance]) -> list[Any]:
        before, self.before = self.before, None
        if before:
            before()
        return self._ask(method, [request.args for request in requests])


def on_main_with_all(answers: Answers, work: Callable[[HarnessModel], T]) -> T:
    """Run `work` on rank 0, with a model that all ranks compute, and share its result. Collective.

    Raises:
        UserError: `work` raised a UserError; every rank raises it.
        PeerLostError: `work` raised anything else; rank 0 raises that exception itself.
    """
    world = answers.world
    if not world.is_main:
        while True:
            method, content = world.from_main(None)
            if method == "done":
                return content
            if method == "wrong input":
                raise UserError(content)
            if method == "failed":
                raise PeerLostError(f"rank 0 failed: {content}")
            getattr(answers, method)(content)

    answering = False

    def ask(method: str, requests: list[Any]) -> list[Any]:
        nonlocal answering
        world.from_main((method, requests))
        answering = True
        answer: list[Any] = getattr(answers, method)(requests)
        answering = False
        return answer

    try:
        result = work(HarnessModel(ask))
    except Exception as error:
        if not answering:  # else the other ranks are not waiting for a message
            wrong = isinstance(error, UserError)
            text = str(error) if wrong else f"{type(error).__name__}: {error}"
            world.from_main(("wrong input" if wrong else "failed", text))
        raise
    world.from_main(("done", result))
    return result


def _alike(requests: Sequence[tuple[str, Mapping[str, Any]]], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of requests with the same options, the longest prompts first."""
    by_options: dict[str, list[int]] = {}
    for number, (_, options) in enumerate(requests):
        by_options.setdefault(repr(sorted(options.items())), []).append(number)
    for numbers in by_options.values():
        numbers.sort(key=lambda number: -len(requests[number][0]))
        for begin in range(0, len(numbers), batch_size):
            yield numbers[begin : begin + batch_size]


def _sampling(options: Mapping[str, Any]) -> Sampling:
    """Return the settings of a request, which is greedy unless it has `do_sample`."""
    length = next((int(options[name]) for name in LENGTHS if options.get(name) is not None), MAX_NEW_TOKENS)
    penalty = float(options.get("repetition_penalty") or 1.0)
    if not options.get("do_sample"):
        return Sampling(length, penalty, temperature=0)
    temperature, top_k, top_p = (options.get(name) for name in ("temperature", "top_k", "top_p"))
    return Sampling(
        length, penalty, 1.0 if temperature is None else float(temperature), int(top_k or 0), float(top_p or 1.0)
    )


def _stops(options: Mapping[str, Any]) -> list[str]:
    until = options.get("until") or []
    return [each for each in ([until] if isinstance(until, str) else until) if each]


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
