"""`gpt2dist evaluate`: perplexity of a model on a text, on one process or on all ranks of a launcher."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.evaluate import shared_dataset
from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import results
from gpt2dist.commands.preprocess import add_reading_arguments, reading, suffixes
from gpt2dist.distributed import launch_environment, peer_monitor
from gpt2dist.errors import RunError, UserError
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say, shown_on
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
                                                                beside a training job, until the run is done"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    results.add_arguments(parser)
    _add_text(parser)
    add_reading_arguments(parser.add_argument_group("reading files"))
    _add_scoring(parser)
    _add_recording(parser)


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
    windows.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "tf32"),
        default="fp32",
        help="how the model computes; bf16 and tf32 (fp32 with rounded factors, on a GPU) are faster and less "
        "exact; their difference from fp32 is measured on the first batch and shown; default: %(default)s",
    )


def _add_recording(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("recording results in a run: RUN/eval/NAME and TensorBoard")
    run.add_argument(
        "--run", type=Path, dest="of_run", metavar="RUN", help="run directory to record the result in"
    )
    run.add_argument("--step", type=int, metavar="N", help="step of the result; default: the checkpoint's")
    run.add_argument("--name", help="name of the evaluation; default: that of the dataset or the first file")
    run.add_argument(
        "--all-checkpoints", action="store_true", help="score each checkpoint of the run MODEL without a result"
    )
    run.add_argument(
        "--watch", action="store_true", help="also score new checkpoints, until the run has done all its steps"
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
    source = _source(args)

    with joined_ranks() as world:
        load = source(world)
        if args.all_checkpoints:
            _score_all(args, load, world)
        else:
            _score_one(args, load, world)


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
    record = _record(args) if args.all_checkpoints or args.of_run else None
    model = None
    if not args.all_checkpoints or RunDirectory(Path(args.model)).latest.is_file():
        model = locate(args.model, weights=False)
    if args.text:
        discover(args.text, suffixes(args), format=args.format, encoding=reading(args).encoding)
        return
    text = _dataset(args)
    if model:
        require_same_tokenizer(text, Tokenizer.load(model), args.model)
        found = conditions(model, text, _setting(args))
        if record:
            record.require_comparable(found)


def _check(args: argparse.Namespace) -> None:
    """Check the options before anything is loaded."""
    from gpt2dist.evaluation.measures import in_use

    results.check(args)
    in_use("text", args.measure)
    if (args.data is None) == (args.text is None):
        raise UserError("give either --data DATASET or --text FILE…")
    if args.data and args.detokenizer != "none":
        raise UserError("--detokenizer: a dataset is already tokenised; give the text files with --text")
    if args.text and args.split:
        raise UserError("--split: only datasets have splits; omit it with --text")
    if args.watch and not args.all_checkpoints:
        raise UserError("--watch: needs --all-checkpoints; add it")
    if args.all_checkpoints:
        if args.of_run or args.step is not None or args.output or args.json:
            raise UserError(
                "--all-checkpoints: writes a result per checkpoint to RUN/eval; omit --run, --step, "
                "--output and --json"
            )
        if not Path(args.model).is_dir() or (Path(args.model) / "config.json").exists():
            raise UserError(
                f"--all-checkpoints: {args.model} is not a run directory; give one that `gpt2dist train` created"
            )
        if not args.watch and not RunDirectory(Path(args.model)).checkpoints.is_dir():
            raise UserError(
                f"--all-checkpoints: {args.model} has no checkpoints yet; add --watch to wait for them"
            )
    if args.of_run and not args.of_run.is_dir():
        raise UserError(f"--run: {args.of_run}: no such directory; give one that `gpt2dist train` created")
    if (args.step is not None or args.name) and not (args.of_run or args.all_checkpoints):
        raise UserError("--step and --name: apply only to results recorded in a run; add --run RUN")
    if args.step is not None and args.step < 0:
        raise UserError("--step must be 0 or more")
    if args.of_run or args.all_checkpoints:
        _record(args)  # checks the name before the texts are read


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


def _evaluate(
    model: Path, label: str, text: Any, args: argparse.Namespace, world: Any, first: bool = True
) -> dict[str, Any]:
    """Score one model; for the first of several, also show the difference of --dtype from fp32."""
    from gpt2dist.evaluation.evaluate import evaluate
    from gpt2dist.monitoring.progress import Progress, is_quiet

    with Progress(label, None, "token", scale=True, enabled=world.is_main) as bar:
        on_difference = partial(bar.info, command="evaluate") if first and not is_quiet() else None
        return evaluate(model, text, _setting(args), world, bar.advance, on_difference)


def _score_one(args: argparse.Namespace, load: Callable[[Path], Any], world: Any) -> None:
    from gpt2dist.evaluation.model_forward import locate_together

    model = locate_together(args.model, world)
    text = load(model)
    record = step = None
    if args.of_run:
        record, step = _record(args), _step(model, args)
        _require_comparable(record, model, text, args, world)
    result = _evaluate(model, "evaluate", text, args, world)
    if not world.is_main:
        return
    if record:
        record.add(step, model, result)
        _mirror(record)
    results.print_result(result, _table(result, args), args)


def _score_all(args: argparse.Namespace, load: Callable[[Path], Any], world: Any) -> None:
    """Score all checkpoints of a run that have no result; with --watch, also future ones."""
    from gpt2dist.evaluation.measures import in_line
    from gpt2dist.evaluation.pins import missing, saved_count
    from gpt2dist.evaluation.watch import checkpoints_to_score
    from gpt2dist.monitoring.progress import info, warn

    record = _record(args)
    if args.watch:
        _end_on_signals(record)
    since = world.on_main(lambda: saved_count(record.run))
    text, first = None, True
    for step, model in checkpoints_to_score(
        record, world, args.watch, lambda state: info(f"waiting for {record.run} ({state})"), on_note=warn
    ):
        text = text or load(model)
        _require_comparable(record, model, text, args, world)
        result = _evaluate(model, f"evaluate step {step}", text, args, world, first)
        first = False
        if world.is_main:
            record.add(step, model, result)
            _mirror(record)
            say(f"step {step}: {in_line(result, 'log')}", sys.stdout)
    if world.is_main:
        say(f"{len(record.results())} results in {record.directory}")
    if lost := world.on_main(lambda: missing(record, since)):
        raise RunError(
            f"{len(lost)} checkpoints were deleted by the run before they could be scored: steps "
            f"{', '.join(map(str, lost))}; raise checkpoint.keep_last or checkpoint.every_steps of the run"
        )


def _require_comparable(record: Any, model: Path, text: Any, args: argparse.Namespace, world: Any) -> None:
    """Check, before scoring, that the result belongs to the same curve as the recorded ones."""
    from gpt2dist.evaluation.evaluate import conditions

    found = conditions(model, text, _setting(args))
    world.on_main(lambda: record.require_comparable(found))


def _record(args: argparse.Namespace) -> Any:
    from gpt2dist.evaluation.results import EvaluationResults

    return EvaluationResults(args.of_run or Path(args.model), args.name or Path(args.data or args.text[0]).stem)


def _step(model: Path, args: argparse.Namespace) -> int:
    """Return the step at which to record a result."""
    from gpt2dist.checkpoint import manifest, state

    if args.step is not None:
        return args.step
    if not (model / manifest.NAME).is_file():
        raise UserError(f"--run: {model} is not a checkpoint, so its step is unknown; add --step N")
    return state.TrainerState.read(model).step


def _mirror(record: Any) -> None:
    """Write the results to TensorBoard, as a separate run below the training run."""
    from gpt2dist.monitoring.tensorboard import TensorBoard
    from gpt2dist.monitoring.trackers import send
    from gpt2dist.run.metrics_file import NO_HISTORY

    board = TensorBoard(RunDirectory(record.run).tensorboard / record.name)
    board.start({}, record.run, NO_HISTORY)
    for line in record.lines():
        send(board, line)
    board.close(failed=False)


def _end_on_signals(record: Any) -> None:
    """Exit with code 0 on SIGTERM and SIGUSR1. All results so far are already on disk."""
    from gpt2dist.evaluation.pins import drop_needless

    def end(number: int, frame: Any) -> None:
        if launch_environment.rank() == 0:
            note = f"stopped; the results are in {record.directory}\n"
            if left := drop_needless(record):
                note += f"{left}\n"
            # The signal may have interrupted a print, which cannot be called again here.
            os.write(2, shown_on(sys.stderr, note).encode())
        peer_monitor.goodbye()
        os._exit(0)  # a normal exit could block, since other ranks may wait in a collective

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, end)


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
        "speed": f"{result['tokens_per_second']:,.0f} tokens per second on {result['world_size']} process(es)",
    }
