"""The command line: verbs, `--help` and exit codes.

A command's module is imported only when its verb is given. It imports heavy libraries (torch, transformers,
deepspeed) only when it runs, so that every `--help` is instant.
"""

import argparse
import atexit
import codecs
import contextlib
import gc
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpt2dist import __version__
from gpt2dist.distributed import launch_environment
from gpt2dist.errors import RankRunError, RankUserError, RunError, UserError
from gpt2dist.terminal import say, show_traceback, shown_on

VERBS = {
    "quickstart": "run the whole pipeline on real text, in minutes: from a corpus to a model and its perplexity",
    "init": "write one of the run configurations that come with gpt2dist, or list them",
    "tokenizer": "train a tokenizer on a corpus, or import GPT-2's or BERT's vocabulary files",
    "preprocess": "turn a corpus into a dataset directory of token shards",
    "adopt": "make a dataset directory from token files of Megatron-LM, nanoGPT or llm.c, without copying",
    "inspect": "show the contents of a dataset directory, verify it, or decode one window",
    "config": "explain the keys of a run configuration, or print its JSON Schema for editors",
    "validate": "check a run configuration, and print the plan of the run",
    "check": "measure network, disks, clocks and GPUs of the hosts before a run, and name what is slow",
    "train": "train a model, in one process or under launch, torchrun, deepspeed or srun",
    "launch": "start a verb such as train or evaluate in several processes, as torchrun does",
    "submit": "submit a training run, an evaluation or preprocessing to Slurm, Kubernetes or this machine",
    "verify-resume": "verify on this machine that a resumed run is exact: N + N steps equal 2N steps",
    "evaluate": "measure perplexity and bits per byte of a model on a text, or its scores on tasks",
    "lambada": "measure accuracy and perplexity of a model on the last words of passages",
    "multiple-choice": "measure how often a model prefers the right choice, such as in HellaSwag",
    "generate": "sample text from a model",
    "export": "publish a checkpoint as a Hugging Face model directory with a model card",
    "status": "show state, step, loss, speed and time left of a run, or of all runs in a folder",
    "report": "write a run as one HTML page: state, curves, samples, lineage, configuration",
    "trace": "list the documents that a step of a run was trained on",
    "completion": "print a script with which bash, zsh or fish completes this command line",
}

DISTRIBUTED_VERBS = ("check", "train", "evaluate", "lambada", "multiple-choice", "verify-resume")
"""Verbs that run on several ranks; `launch` starts them."""

SECONDS_TO_REPORT = 10
"""Seconds that other ranks wait for rank 0 to report an error and exit.

Without the wait, the first of them to exit would make the launcher kill rank 0 before it reports.
"""
PLAIN = {
    **{"…": "...", "–": "-", "−": "-", "→": "->", "×": "x", "·": "|", "Σ": "sum", "√": "sqrt", "±": "+-"},
    **{"≥": ">=", "≤": "<=", "°": " deg", "├": "|", "└": "`", "│": "|", "─": "-"},
    **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
}
"""Characters of our messages → their replacements on a terminal that has only ASCII."""
EXIT_DONE, EXIT_FAILURE, EXIT_WRONG_INPUT = 0, 1, 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report a program that Ctrl-C ended."""


def build_parser(verb: str | None = None, arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the parser of the program, with the options of one verb.

    Args:
        verb: The verb whose module to import; with None, every verb has only its name and help line.
        arguments: The command line, which may name a scheduler of another package: `submit` then has its options.
    """
    parser = _Parser(
        prog="gpt2dist",
        description="Distributed pretraining of GPT-2-family models, from raw text to perplexity.",
        epilog="`gpt2dist VERB --help` explains a verb, and `gpt2dist config` the keys of a run. "
        "Exit codes: 0 success, 1 failure, 2 wrong input (the message says what is wrong and how to fix it), "
        "130 interrupted by Ctrl-C (training saves everything first).",
    )
    parser.add_argument("--version", action="version", version=f"gpt2dist {__version__}")
    # The deepspeed launcher puts this option before the verb. It is ignored: the environment has the same value.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        subparser = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == verb:
            command = importlib.import_module(f"gpt2dist.commands.{name.replace('-', '_')}")
            command.configure(subparser)
            if verb == "submit":
                command.add_scheduler_options(subparser, arguments)
            subparser.set_defaults(run=command.run)
            if verb != "launch":  # the verb that it launches has the option
                add_quiet(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print: shell globs put the names of files on the command line."""

    def error(self, message: str) -> NoReturn:
        super().error(shown_on(sys.stderr, message))

    def _print_message(self, message: str, file: Any = None) -> None:
        with contextlib.suppress(
            BrokenPipeError
        ):  # `gpt2dist VERB --help | head`; newer versions of Python do so
            super()._print_message(message, file)


def add_run_file(parser: argparse.ArgumentParser) -> None:
    """Add the configuration file of a run, and overrides of its keys."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="keys that override the file, with values in YAML; `gpt2dist config` lists all keys",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add --quiet, which every verb except launch has."""
    what = "print only results, warnings and errors"
    parser.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help=what)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    _print_in_any_locale()
    # Skip garbage collection at exit, where it is useless and takes a second if torch is loaded.
    atexit.register(gc.freeze)
    atexit.register(_end_closed_output)
    sys.excepthook = show_traceback
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if word in VERBS), None)
    own, passed_on = _split(arguments, verb)
    parser = build_parser(verb, own)
    args, rest = parser.parse_known_args(own)
    args.words = passed_on
    # argparse accepts overrides only in one group, but users also put some after an option.
    if any(word.startswith("-") or not hasattr(args, "overrides") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    try:
        if verb in DISTRIBUTED_VERBS:
            launch_environment.check()
        with _at_volume(quiet=getattr(args, "quiet", False)):
            return int(args.run(args) or EXIT_DONE)
    except (UserError, RunError) as error:
        # All ranks find the same error, so only one reports it. Under srun, launchers are numbered as ranks are.
        if isinstance(error, RankUserError | RankRunError) or launch_environment.reports_errors():
            say(f"gpt2dist {args.verb}: {error}")
        else:
            time.sleep(SECONDS_TO_REPORT)
        return EXIT_WRONG_INPUT if isinstance(error, UserError) else EXIT_FAILURE
    except BrokenPipeError:  # not a failure: `gpt2dist inspect … | head`
        _end_closed_output()
        return EXIT_DONE
    except KeyboardInterrupt:
        say(f"gpt2dist {args.verb}: interrupted")
        return EXIT_INTERRUPTED


def _end_closed_output() -> None:
    """Write what is left to nowhere if nobody reads it any more; Python would exit with code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _print_in_any_locale() -> None:
    """Print characters that the locale's encoding lacks in another way, instead of failing."""
    codecs.register_error("gpt2dist-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="gpt2dist-plain")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that cannot be encoded: by a plain one, or else by its escape."""
    if isinstance(error, UnicodeEncodeError) and (plain := PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


def _at_volume(quiet: bool) -> contextlib.AbstractContextManager[None]:
    if not quiet:
        return contextlib.nullcontext()  # without importing tqdm
    from gpt2dist.monitoring.progress import quietly

    return quietly()


def _split(words: list[str], verb: str | None) -> tuple[list[str], list[str]]:
    """Split off the arguments that a verb passes on: those after `launch`, or after the `--` of `submit`."""
    if verb == "submit" and "--" in words:
        place = words.index("--")
        return words[:place], words[place + 1 :]
    if verb == "launch":
        place = words.index(verb) + 1
        if words[place : place + 1] not in (["-h"], ["--help"]):
            return words[:place], words[place:]
    return words, []
