"""`gpt2dist multiple-choice`: measure how often a model prefers the right choice, as in HellaSwag."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import recording, results
from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_file, write_file
from gpt2dist.tokenizer.text_changes import described

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World
    from gpt2dist.evaluation.questions import Question


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    results.add_arguments(parser)
    parser.add_argument(
        "--data", required=True, type=Path, metavar="F.jsonl", help="questions, one JSON object per line"
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="hellaswag (the published files: activity_label, ctx_a, ctx_b, endings, label), plain (context, "
        "choices, label), or package.module:FUNCTION; default: by the keys of the first question",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="F.jsonl",
        help="also write each question's label, chosen choices and log-likelihoods to this file",
    )
    recording.add_arguments(parser)
    parser.epilog = """\
Computed as in lm-evaluation-harness: acc chooses the choice with the highest log-likelihood after the context,
acc_norm the one with the highest log-likelihood per character. For the same batch size and threads per process,
the result has the same bits for any number of processes.

examples:
  gpt2dist multiple-choice runs/gpt2-124m --data hellaswag_val.jsonl
  gpt2dist launch --nproc-per-node 8 multiple-choice gpt2 --data hellaswag_val.jsonl --output hellaswag.json
  gpt2dist multiple-choice runs/gpt2-124m --data hellaswag_val.jsonl --all-checkpoints --watch
                                                                beside a training job, until the run is done"""


def run(args: argparse.Namespace) -> None:
    """Score the questions and print or record the result."""
    from gpt2dist.evaluation.measures import in_use
    from gpt2dist.evaluation.model_forward import require_dtype_of_host
    from gpt2dist.evaluation.questions import read_questions
    from gpt2dist.monitoring.logs import quiet_libraries

    _check(args)
    in_use("choices", args.measure)
    require_dtype_of_host(args.dtype)
    choices = _Choices(args, read_questions(args.data, args.format))
    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with joined_ranks() as world:
        recording.evaluate(args, [choices], world, choices.table)


def _check(args: argparse.Namespace) -> None:
    results.check(args)
    recording.check(args, args.data.stem)
    if args.scores and args.all_checkpoints:
        raise UserError("--scores: writes the scores of one model; omit it with --all-checkpoints")
    if args.scores:
        check_file(args.scores, "--scores")


class _Choices:
    """The choices of questions; see `recording.ModelEvaluation`."""

    def __init__(self, args: argparse.Namespace, questions: "list[Question]"):
        self.name = args.data.stem
        self._args = args
        self._questions = questions

    def conditions(self, model: Path) -> dict[str, Any]:
        from gpt2dist.evaluation.multiple_choice import conditions
        from gpt2dist.tokenizer.tokenizer import Tokenizer

        return conditions(self._questions, Tokenizer.load(model), self._args.dtype)

    def score(self, model: Path, label: str, world: "World", require: recording.Require) -> dict[str, Any]:
        from gpt2dist.evaluation.multiple_choice import QuestionScores, multiple_choice
        from gpt2dist.monitoring.progress import Progress

        args = self._args

        def keep(scores: QuestionScores) -> None:
            if args.scores and world.is_main:
                lines = (json.dumps(line) + "\n" for line in scores.lines(self._questions))
                write_file(args.scores, "".join(lines))

        with Progress(label, None, "token", scale=True, enabled=world.is_main) as bar:
            how = (args.batch_size, args.zero_stage, bar.advance, args.measure, args.dtype, keep)
            return multiple_choice(model, self._questions, world, *how)

    def table(self, found: Mapping[str, dict[str, Any]]) -> dict[str, str]:
        """Return the rows to print."""
        from gpt2dist.evaluation.measures import in_table

        result = found[self.name]
        changes = described(result.get("text_changes", {}))
        return {
            **in_table(result),
            "questions": f"{result['examples']:,} of {self._args.data}, {result['targets']:,} tokens scored",
            **({"text changes": changes} if changes else {}),
            "speed": results.speed(result),
        }
