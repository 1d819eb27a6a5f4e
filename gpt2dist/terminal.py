"""Printing to the terminal, where text that comes from files must not act as control sequences."""

import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # all control characters but the tab and line ends
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text around them
    "\ud800-\udfff]"  # bytes of a file name that are not UTF-8
    "|\r(?!\n)"
)


def printable(text: str) -> str:
    r"""Escape characters with which a text could control a terminal, as in JSON: \u001b for ESC.

    Newlines and tabs are kept.
    """
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a text and flush. It is escaped if the stream is a terminal, and unchanged in a pipe or a file.

    Everything that is printed goes through this function, which `tests/test_architecture.py` enforces.

    Args:
        text: The text.
        stream: Standard error by default.
        end: What is printed after the text.
    """
    stream = sys.stderr if stream is None else stream
    print(shown_on(stream, text), end=end, file=stream, flush=True)


def shown_on(stream: TextIO, text: str) -> str:
    """Return a text as `say` prints it on a stream."""
    return printable(text) if stream.isatty() else text


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an uncaught error, whose message may quote files. A `sys.excepthook`."""
    say("".join(traceback.format_exception(kind, error, trace)), end="")
