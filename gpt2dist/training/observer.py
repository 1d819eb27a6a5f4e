"""What a run looks at beside its training: validation in full, and texts that the model makes up."""

import json
from collections.abc import Callable
from typing import Any

from gpt2dist.config import Config
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.tokenizer import Tokenizer
from gpt2dist.data.windows import Windows
from gpt2dist.distributed import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.perplexity import Score, score
from gpt2dist.generation import Generator, Sampling
from gpt2dist.monitoring.metrics import Value
from gpt2dist.monitoring.progress import Progress
from gpt2dist.plan import Plan, ValidationSet
from gpt2dist.training.engine import Engine


class Observer:
    """Evaluates and samples. Nothing here changes a bit of the training.

    Args:
        config: The run.
        plan: What it implies.
        world: This rank.
        engine: The model.
        tokenizer: Turns prompts into tokens and samples into text.
    """

    def __init__(self, config: Config, plan: Plan, world: World, engine: Engine, tokenizer: Tokenizer):
        self.config = config
        self.plan = plan
        self.world = world
        self.engine = engine
        self.tokenizer = tokenizer
        self.generator = Generator(
            engine.next_logits, tokenizer.vocab_size, plan.shape.context_length, tokenizer.end_of_text_id
        )
        # Now, since a character that the tokenizer does not know is better told before the first step.
        self.prompts = [self._encode(prompt) for prompt in config.monitoring.samples.prompts]

    def evaluate(self, step: int, beat: Callable[[], None]) -> dict[str, Score]:
        """Scores all validation sets in full, and records them in eval/step-N.json. Collective.

        Args:
            step: Optimizer steps done.
            beat: Called after each batch; may raise.
        """
        results = {entry.name: self._score(entry, beat) for entry in self.plan.validation}
        if self.world.is_main and results:
            report = {name: _as_json(result) for name, result in results.items()}
            path = self.config.output_dir / "eval" / f"step-{step:08d}.json"
            path.write_text(json.dumps(report, indent=1) + "\n")
        return results

    def sample(self, beat: Callable[[], None]) -> dict[str, Value]:
        """Continues the prompts: tag → text. Collective."""
        samples, seed = self.config.monitoring.samples, self.config.run.seed
        how = Sampling(samples.max_new_tokens, temperature=samples.temperature, top_k=samples.top_k)
        texts: dict[str, Value] = {}
        # One by one: the attention of the training knows no padding.
        for number, (prompt, tokens) in enumerate(zip(samples.prompts, self.prompts, strict=True)):
            beat()
            (new,) = self.generator([tokens], [seed + number], how, run_on=True)
            texts[f"samples/{number}"] = prompt + self.tokenizer.decode(new)
        return texts

    def _score(self, entry: ValidationSet, beat: Callable[[], None]) -> Score:
        stream = TokenStream.open(entry.dataset, entry.split)
        windows = Windows(len(stream), self.plan.sequence_length, self.plan.evaluation_stride)
        shown = Progress(
            f"evaluate {entry.name}", windows.targets, "token", 0, True, self.world.is_main, leave=False
        )

        def on_batch(targets: int) -> None:
            shown.advance(targets)
            beat()

        with shown:
            nll, targets = score(
                self.engine.logits,
                stream,
                windows,
                self.config.evaluation.batch_size,
                self.world.rank,
                self.world.size,
                self.world.sum,
                on_batch,
            )
        totals = entry.dataset.totals(entry.split)
        return Score(nll, targets, totals.bytes, totals.words, len(windows))

    def _encode(self, prompt: str) -> list[int]:
        try:
            return self.tokenizer.encode(prompt).tolist()
        except UserError as error:
            raise UserError(f"monitoring.samples.prompts: {error}") from error


def _as_json(result: Score) -> dict[str, Any]:
    measures = ("nll_sum", "targets", "loss", "perplexity", "bits_per_byte", "bytes", "word_perplexity", "words")
    return {key: getattr(result, key) for key in measures}
