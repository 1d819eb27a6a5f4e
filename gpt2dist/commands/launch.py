"""`gpt2dist launch`: torchrun with our defaults, and an error message that names the rank at fault."""

import argparse
import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.cli import DISTRIBUTED_VERBS, EXIT_DONE, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_WRONG_INPUT
from gpt2dist.distributed import open_files
from gpt2dist.errors import PeerLostError, RankRunError, UserError
from gpt2dist.run import end_markers
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

EXAMPLES = """\
examples:
  gpt2dist launch train configs/gpt2-124m.yaml                       all GPUs of this host
  gpt2dist launch --nproc-per-node 2 --max-restarts 3 train run.yaml optimizer.lr=3e-4
  gpt2dist launch --nnodes 2 --rdzv-backend c10d --rdzv-endpoint head:29400 train run.yaml
  gpt2dist launch evaluate runs/gpt2-124m --data data/openwebtext
  gpt2dist launch check                                              network, disks and GPUs, before a run

Options before the verb go to torchrun (`torchrun --help`). If a run fails, the last message names the rank that
failed first, the cause and its log. Exit codes: 0 done, or stopped on request (SIGTERM, SIGUSR1); 2 wrong input;
130 Ctrl-C, which also saves everything and stops. A second signal ends a run immediately.
"""

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
SHUTDOWN_SECONDS = 300
"""Time for ranks to save after a signal. torchrun's default, 30 seconds, is too short for a large checkpoint."""

CAUSES = {
    signal.SIGKILL: "probably out of memory (see dmesg), or killed by a scheduler or by hand",
    signal.SIGBUS: "probably /dev/shm is full, or a file was truncated while it was read",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGABRT: "aborted, as NCCL's watchdog does when a collective hangs",
    signal.SIGTERM: "ended by another process",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the usage and examples, but no options: the arguments are passed on unparsed, in `args.words`."""
    parser.usage = "gpt2dist launch [torchrun options] VERB …"
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Start the ranks and wait for them."""
    options, words = split(args.words)
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    settings = torchrun.parse_args([*with_defaults(options, _gpus()), "-m", "gpt2dist", *words])
    directory = _run_directory(words, _ranks(settings.nnodes, settings.nproc_per_node))
    _set_environment(settings.nproc_per_node)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    # The last one has its own level.
    for name in ("elastic", "run", "elastic.agent.server.api"):
        logging.getLogger(f"torch.distributed.{name}").setLevel(logging.CRITICAL)  # the errors below are shorter
    open_files.raise_limit()  # on the first host, torchrun holds the store, to which each rank connects
    began = time.time()
    try:
        torchrun.run(settings)
    except ChildFailedError as ended:
        codes = {each.exitcode for each in ended.failures.values()}
        for code in _explained_codes(words[0]):
            if code in codes and codes <= {
                code,
                -signal.SIGTERM,
            }:  # the launcher ended the ranks that did not exit
                return code
        raise RankRunError(describe(ended.failures, directory)) from ended
    except (DistError, RendezvousError) as error:
        place = settings.rdzv_endpoint or f"{settings.master_addr}:{settings.master_port}"
        raise RankRunError(
            f"the {settings.nnodes} hosts did not meet at {place} ({str(error).splitlines()[0]}); start this "
            "on each host, with its own --node-rank if you number them, and check that all can reach that address"
        ) from error
    except SignalException as stopped:
        interrupted = stopped.sigval == signal.SIGINT
        if _follows_a_run(words) or (directory and _was_saved(directory, began)):
            return EXIT_INTERRUPTED if interrupted else EXIT_DONE
        name = "Ctrl-C" if interrupted else signal.Signals(stopped.sigval).name
        text = f"ended by {name} before everything was saved{_shutdown_hint(torchrun)}"
        if interrupted:
            say(f"gpt2dist launch: {text}")
            return EXIT_INTERRUPTED
        raise RankRunError(text) from stopped
    return EXIT_DONE


def _explained_codes(verb: str) -> tuple[int, ...]:
    """Return the exit codes with which the ranks of a verb have said themselves what is wrong."""
    return (EXIT_WRONG_INPUT, EXIT_FAILURE) if verb == "check" else (EXIT_WRONG_INPUT,)


def _shutdown_hint(torchrun: Any) -> str:
    """Return a hint if this version of torchrun cannot give ranks more time to save, else an empty text."""
    if "--shutdown-timeout" in torchrun.get_args_parser().format_help():
        return ""
    return "; torchrun of this torch gives ranks only 30 seconds to save; use a newer torch if that is too short"


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into torchrun's options and the verb with its arguments.

    Raises:
        UserError: None of the words is a verb that can be launched.
    """
    for place, word in enumerate(words):
        if word in DISTRIBUTED_VERBS:
            quiet = [each for each in words[:place] if each in ("-q", "--quiet")]  # the verb's option
            return [each for each in words[:place] if each not in quiet], [word, *quiet, *words[place + 1 :]]
    raise UserError(f"no verb to launch; write one of {', '.join(DISTRIBUTED_VERBS)} after torchrun's options")


def with_defaults(options: list[str], gpus: int) -> list[str]:
    """Return torchrun's options, completed by our defaults.

    Args:
        options: The given options.
        gpus: Number of GPUs of this host.
    """

    def given(*names: str) -> bool:
        return any(word.split("=")[0].replace("_", "-") in names for word in options)

    out = list(options)
    if not given("--nproc-per-node"):
        out += ["--nproc-per-node", str(max(1, gpus))]
    if not given("--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--standalone", "--master-addr"):
        out += ["--standalone"]
        if not given("--local-addr"):
            out += ["--local-addr", "localhost"]  # on some laptops the host's own name does not resolve
    if not given("--signals-to-handle"):
        out += ["--signals-to-handle", SIGNALS]
    return out


def describe(failures: "dict[int, ProcessFailure]", run_directory: Path | None) -> str:
    """Describe a failure: the rank that failed first, the cause, and where its log is.

    Args:
        failures: Failures by global rank.
        run_directory: The run directory, which contains the logs; None if there are no logs.
    """
    rank, first = min(failures.items(), key=lambda item: _suspicion(item[1]))
    text = f"rank {rank} failed first: {_cause(first)}"
    if first.exitcode > 0 and _lost_a_peer(first):  # the cause is on another host
        text += f"\n  {end_markers.PEER_LOST}; see the logs on the other hosts"
    if run_directory:
        text += f"\n  its log: {RunDirectory(run_directory).rank_log(rank)}"
    others = sorted(set(failures) - {rank})
    if others:
        text += f"\n  ranks that ended because of it: {', '.join(map(str, others))}"
    if run_directory:
        return text + "\n  start the run again to resume from its newest complete checkpoint"
    return text + "\n  start it again; results are written only once all ranks are done"


def _suspicion(failure: "ProcessFailure") -> tuple[bool, bool, int]:
    """Return a sort key that puts failures first that are not consequences of another rank's failure."""
    killed = failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM  # the launcher sends SIGTERM
    lost = failure.exitcode < 0 or _lost_a_peer(failure)
    return not killed, lost, failure.timestamp


def _lost_a_peer(failure: "ProcessFailure") -> bool:
    return _message(failure).startswith(f"{PeerLostError.__name__}: ")


def _cause(failure: "ProcessFailure") -> str:
    if failure.exitcode < 0:
        number = signal.Signals(-failure.exitcode)
        return f"{number.name} ({failure.exitcode}), {CAUSES.get(number, 'a signal')}"
    return f"exit code {failure.exitcode}: {_message(failure).splitlines()[0]}"


def _message(failure: "ProcessFailure") -> str:
    message = failure.message
    text = message.get("message", "") if isinstance(message, dict) else str(message)
    return text or "no error message"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _ranks(nnodes: str, nproc_per_node: str) -> int | None:
    """Return the number of ranks; None if it is unknown, as with `--nproc-per-node gpu`, or on several hosts.

    The ranks of several hosts check a run together: a launcher that refused it alone would leave others waiting.
    """
    return int(nproc_per_node) if nnodes in ("1", "1:1") and nproc_per_node.isdecimal() else None


def _set_environment(ranks: str) -> None:
    """Divide the cores among the ranks. torchrun would set one thread per rank, with a long warning."""
    if ranks.isdecimal():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(ranks))))


def _run_directory(words: list[str], ranks: int | None) -> Path | None:
    """Check the arguments once for all ranks, and return the directory of their logs.

    Args:
        words: The verb and its arguments.
        ranks: Number of ranks; None if unknown.

    Returns:
        The directory; None if the verb has no run configuration.

    Raises:
        UserError: The configuration is invalid.
    """
    from gpt2dist.cli import build_parser
    from gpt2dist.config import read
    from gpt2dist.preflight import resolve

    args, rest = build_parser(words[0]).parse_known_args(words)  # overrides may follow an option
    if not hasattr(args, "config"):
        return None
    args.overrides += rest
    config, *_ = resolve(args.config, args.overrides, ranks) if ranks else read(args.config, args.overrides)
    run = RunDirectory(config.output_dir)
    return run.verify_resume if words[0] == "verify-resume" else run.path


def _follows_a_run(words: list[str]) -> bool:
    """Return whether the ranks run `evaluate --watch`, which a signal may end at any time without loss."""
    from gpt2dist.cli import build_parser

    args, _ = build_parser(words[0]).parse_known_args(words)
    return getattr(args, "watch", False)


def _was_saved(directory: Path, since: float) -> bool:
    """Return whether the run saved everything and stopped after a time, according to its marker file."""
    marker = RunDirectory(directory).stopped_marker
    return marker.is_file() and marker.stat().st_mtime >= since - 1
