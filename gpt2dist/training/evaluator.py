"""Evaluate all validation sets and sample texts during training."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.measure import Sums
from gpt2dist.evaluation.perplexity import score
from gpt2dist.generation.generator import Generator
from gpt2dist.generation.sampling import Sampling
from gpt2dist.monitoring.progress import Progress
from gpt2dist.plan import Plan, ValidationSet
from gpt2dist.run.directory import RunDirectory
from gpt2dist.tokenizer.tokenizer import Tokenizer
from gpt2dist.training.engine import Engine
from gpt2dist.training.hooks import Hook, TrainerView, Values


class Evaluator(Hook):
    """Evaluation and sampling during a run. They do not change the training by a single bit.

    The last step of the whole run is always evaluated.

    Args:
        config: The run's configuration.
        plan: The run's plan.
        world: This rank.
        engine: The model.
        tokenizer: Encodes prompts and decodes samples.
    """

    def __init__(self, config: Config, plan: Plan, world: World, engine: Engine, tokenizer: Tokenizer):
        self.config = config
        self.plan = plan
        self.world = world
        self.engine = engine
        self.tokenizer = tokenizer
        self.generator = Generator(
            engine.next_logits,
            tokenizer.vocab_size,
            plan.shape.context_length,
            tokenizer.end_of_text_id,
            world.device,
        )
        self.measures = measures.in_use("text", config.evaluation.measures)
        # Encoded here so that a character unknown to the tokenizer is reported before the first step.
        self.prompts = [self._encode(prompt) for prompt in config.monitoring.samples.prompts]

    def start(self, trainer: TrainerView) -> None:
        """Create the directory of the results. Collective."""
        results = RunDirectory(self.config.output_dir).evaluations
        self.world.on_main(partial(results.mkdir, exist_ok=True))

    def evaluate(self, trainer: TrainerView) -> Iterator[Values]:
        """Score the validation sets and sample, each if due; yield the results. Collective.

        Raises:
            StopRequestedError: The run was asked to stop meanwhile.
        """
        if trainer.step == self.plan.total_steps or trainer.is_due(self.config.evaluation.every_steps):
            for name, result in self._score_all(trainer).items():
                shown = measures.of_result(result, "training")
                tagged = {f"eval/{name}/{each.key}": result[each.key] for each in shown}
                yield {**tagged, "progress/tokens": trainer.consumed_tokens}
                trainer.info(f"step {trainer.step}: {name} {measures.in_line(result, 'log')}")
        if trainer.is_due(self.config.monitoring.samples.every_steps):
            yield self._sample(trainer.poll)

    def _score_all(self, trainer: TrainerView) -> dict[str, dict[str, Any]]:
        """Score all validation sets in full, and write the results to eval/step-N.json."""
        results = {}
        for entry in self.plan.validation:
            results[entry.name] = measures.record(self._score(entry, trainer.poll), self.measures)
            if changes := entry.dataset.text_changes:
                results[entry.name]["text_changes"] = changes
        if self.world.is_main and results:
            path = RunDirectory(self.config.output_dir).evaluations / f"{checkpoint_name(trainer.step)}.json"
            atomic_io.write_json(path, results)
        return results

    def _sample(self, poll: Callable[[], None]) -> dict[str, str]:
        """Continue the prompts, and return the texts by their tags."""
        samples, seed = self.config.monitoring.samples, self.config.run.seed
        how = Sampling(samples.max_new_tokens, temperature=samples.temperature, top_k=samples.top_k)
        texts = {}
        # One at a time, because the attention used in training does not support padding.
        for number, (prompt, tokens) in enumerate(zip(samples.prompts, self.prompts, strict=True)):
            poll()
            (new,) = self.generator([tokens], [seed + number], how, run_on=True)
            texts[f"samples/{number}"] = prompt + self.tokenizer.decode_after(tokens, new)
        return texts

    def _score(self, entry: ValidationSet, poll: Callable[[], None]) -> Sums:
        text = HeldOut.of_dataset(entry.dataset, entry.split)
        shown = Progress(f"evaluate {entry.name}", None, "token", 0, True, self.world.is_main, leave=False)

        def on_batch(targets: int, of: int) -> None:
            shown.advance(targets, of)
            poll()

        with shown:
            return score(
                self.engine.score,
                text,
                self.plan.sequence_length,
                self.plan.evaluation_stride,
                self.config.evaluation.batch_size,
                self.world,
                on_batch=on_batch,
            )

    def _encode(self, prompt: str) -> list[int]:
        try:
            return self.tokenizer.encode(prompt).tolist()
        except UserError as error:
            raise UserError(f"monitoring.samples.prompts: {error}") from error
