"""`gpt2dist evaluate`: perplexity of a model on a text, or its scores on tasks of lm-evaluation-harness."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.evaluate import shared_dataset
from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import recording, results, tasks
from gpt2dist.commands.preprocess import add_reading_arguments, reading, suffixes
from gpt2dist.distributed import launch_environment
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.tokenizer.text_changes import described

if TYPE_CHECKING:  # importing numpy would slow down --help
    from gpt2dist.distributed.world import World
    from gpt2dist.evaluation.held_out_text import HeldOut

EPILOG = """\
Every token of the text is scored exactly once, by the first window that predicts it. For the same batch size and
threads per process, the result has the same bits for any number of processes.

examples:
  gpt2dist evaluate runs/quickstart --data data/quickstart
  gpt2dist launch --nproc-per-node 8 evaluate gpt2 --data data/wikitext --stride 512
  gpt2dist evaluate gpt2 --text pages.jsonl --text-field page --detokenizer wikitext --per-document \\
      --prefix end-of-text --stride 1024                        like the task wikitext of lm-evaluation-harness
  gpt2dist evaluate runs/gpt2-124m --data data/wikitext --all-checkpoints --watch
                                                                beside a training job, until the run is done
  gpt2dist evaluate runs/gpt2-124m --tasks lambada_openai,hellaswag
                                                                tasks of lm-evaluation-harness"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    results.add_arguments(parser)
    _add_text(parser)
    add_reading_arguments(parser.add_argument_group("reading files"))
    _add_scoring(parser)
    tasks.add_arguments(parser)
    recording.add_arguments(parser)


def _add_text(parser: argparse.ArgumentParser) -> None:
    text = parser.add_argument_group("text to score")
    text.add_argument("--data", type=Path, metavar="DATASET", help="a dataset directory")
    text.add_argument(
        "--split", help="split of the dataset; default: val if the dataset has it, else its only one"
    )
    text.add_argument(
        "--text",
        nargs="+",
        metavar="INPUT",
        help="files, directories and globs, as for `gpt2dist preprocess`, that are tokenised on the fly",
    )
    text.add_argument(
        "--detokenizer",
        choices=("none", "wikitext"),
        default="none",
        help="what to apply to texts first; bytes and words are counted before it; default: %(default)s",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    windows = parser.add_argument_group("scoring")
    windows.add_argument(
        "--sequence-length", type=int, metavar="L", help="tokens per window; default: the model's context length"
    )
    windows.add_argument("--stride", type=int, metavar="S", help="tokens from window to window; default: L / 2")
    windows.add_argument(
        "--prefix",
        choices=("none", "end-of-text"),
        default="none",
        help="end-of-text makes the first token a target too; default: %(default)s",
    )
    windows.add_argument(
        "--per-document",
        action="store_true",
        help="score each document separately, without the end-of-text after it",
    )
    windows.add_argument(
        "--document-boundaries",
        choices=("pack", "isolate"),
        default="pack",
        help="isolate: attention and positions restart at each end-of-text; default: %(default)s",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate one model, or the checkpoints of a run."""
    _check(args)

    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.dtype != "fp32":  # before the text is read
        from gpt2dist.evaluation.model_forward import require_dtype_of_host

        require_dtype_of_host(args.dtype)
    if args.tasks:
        tasks.run(args)
        return
    source = _source(args)
    with joined_ranks() as world:
        text = _TextEvaluation(args, source(world))
        recording.evaluate(args, [text], world, lambda found: _table(found[text.name], args))


def check(args: argparse.Namespace) -> None:
    """Check everything that can be checked without scoring, since a submitted job may start much later.

    Raises:
        UserError: The options, the text or an existing model cannot be used.
    """
    from gpt2dist.corpus import discover
    from gpt2dist.evaluation.evaluate import conditions, require_same_tokenizer
    from gpt2dist.model.find_model import locate
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    _check(args)
    model = None
    if not args.all_checkpoints or RunDirectory(Path(args.model)).latest.is_file():
        model = locate(args.model, weights=False)
    if args.tasks:
        return
    if args.text:
        discover(args.text, suffixes(args), format=args.format, encoding=reading(args).encoding)
        return
    text = _dataset(args)
    if model:
        require_same_tokenizer(text, Tokenizer.load(model), args.model)
        found = conditions(model, text, _setting(args))
        if recording.records(args):
            recording.record(args, _name(args)).require_comparable(found)


def _check(args: argparse.Namespace) -> None:
    """Check the options before anything is loaded."""
    from gpt2dist.evaluation.measures import in_use

    results.check(args)
    if sum(given is not None for given in (args.data, args.text, args.tasks)) != 1:
        raise UserError("give one of --data DATASET, --text FILE… and --tasks NAMES")
    tasks.check(args)
    if not args.tasks:
        in_use("text", args.measure)
    if args.data and args.detokenizer != "none":
        raise UserError("--detokenizer: a dataset is already tokenised; give the text files with --text")
    if args.text and args.split:
        raise UserError("--split: only datasets have splits; omit it with --text")
    recording.check(args, None if args.tasks else _name(args))


def _name(args: argparse.Namespace) -> str:
    """Return the default name of the evaluation of a text."""
    return Path(args.data or args.text[0]).stem


def _dataset(args: argparse.Namespace) -> "HeldOut":
    from gpt2dist.dataset.manifest import Manifest, without_sha256
    from gpt2dist.evaluation.held_out_text import HeldOut, default_split
    from gpt2dist.monitoring.progress import info

    dataset = Manifest.load(args.data)
    note = without_sha256([dataset])
    if note and launch_environment.rank() == 0:
        info(note, "evaluate")
    return HeldOut.of_dataset(dataset, args.split or default_split(dataset))


def _source(args: argparse.Namespace) -> "Callable[[World], Callable[[Path], HeldOut]]":
    """Return a function that, once the ranks have joined, returns a function from a model directory to the text.

    What does not need the model is read here, and a dataset is opened by one rank of each host.
    """
    if args.data:
        return shared_dataset(partial(_dataset, args))

    from gpt2dist.evaluation.held_out_text import HeldOut, read_texts
    from gpt2dist.monitoring.progress import info
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    def show(text: str) -> None:
        if launch_environment.rank() == 0:  # all ranks read the same files
            info(text, "evaluate")

    texts = list(read_texts(args.text, reading(args), suffixes(args), args.format, show))
    name = ", ".join(args.text)
    return lambda world: (
        lambda directory: HeldOut.of_texts(texts, Tokenizer.load(directory), args.detokenizer, name)
    )


def _setting(args: argparse.Namespace) -> Any:
    from gpt2dist.evaluation.evaluate import EvaluationConfig

    return EvaluationConfig(
        args.sequence_length,
        args.stride,
        args.prefix,
        args.per_document,
        args.document_boundaries,
        args.batch_size,
        args.zero_stage,
        tuple(args.measure),
        args.dtype,
    )


class _TextEvaluation:
    """The measures of a text; see `recording.ModelEvaluation`.

    Args:
        args: The options.
        load: Returns the text in tokens of the model of a directory. All models of a run have one tokenizer.
    """

    def __init__(self, args: argparse.Namespace, load: "Callable[[Path], HeldOut]"):
        self.name = _name(args)
        self._args = args
        self._load = load
        self._loaded: HeldOut | None = None
        self._is_first = True

    def conditions(self, model: Path) -> dict[str, Any]:
        from gpt2dist.evaluation.evaluate import conditions

        return conditions(model, self._text(model), _setting(self._args))

    def score(self, model: Path, label: str, world: "World", require: recording.Require) -> dict[str, Any]:
        """Score one model; for the first of several, also show the difference of --dtype from fp32."""
        from gpt2dist.evaluation.evaluate import evaluate
        from gpt2dist.monitoring.progress import Progress, is_quiet

        with Progress(label, None, "token", scale=True, enabled=world.is_main) as bar:
            on_difference = partial(bar.info, command="evaluate") if self._is_first and not is_quiet() else None
            self._is_first = False
            return evaluate(model, self._text(model), _setting(self._args), world, bar.advance, on_difference)

    def _text(self, model: Path) -> "HeldOut":
        if self._loaded is None:
            self._loaded = self._load(model)
        return self._loaded


def _table(result: dict[str, Any], args: argparse.Namespace) -> dict[str, str]:
    from gpt2dist.evaluation.measures import in_table

    source = f"{args.data}, split {result['split']}" if args.data else ", ".join(args.text)
    how = f"stride {result['stride']}, prefix {result['prefix']}"
    how += ", each document by itself" if result["per_document"] else ""
    how += f", dtype {result['dtype']}" if result["dtype"] != "fp32" else ""
    changes = described(result.get("text_changes", {}))
    return {
        **in_table(result),
        "Σ nll": f"{result['nll_sum']!r} nats",
        "targets": f"{result['targets']:,} in {result['windows']:,} windows of {result['sequence_length']} "
        f"tokens, {how}",
        "text": f"{result['bytes']:,} bytes, {result['words']:,} words, {result['documents']:,} document(s) of "
        f"{source}",
        **({"text changes": changes} if changes else {}),
        "speed": results.speed(result),
    }
