"""Makes the picture of TensorBoard in the README, of the runs in a folder; needs Chromium and its driver.

python tests/picture.py RUNS docs/images/tensorboard.png
"""

import sys
import time
from pathlib import Path
from urllib.parse import quote

from browser import browser, tensorboard
from commands import wait_until

TAGS = "^(eval/[^/]*/loss|train/(loss|lr|grad_norm))$"
CLOSE_SETTINGS = """
const click = (kind, text, part) => [...document.querySelectorAll(kind)]
    .filter((each) => each.innerText.includes(text))
    .forEach((each) => (part ? each.querySelector(part) : each).click());
click("mat-checkbox", "Enable step selection", "input");
click("button", "Settings");
"""
DRAWN = 'return document.querySelectorAll("scalar-card canvas").length'
SETTLING_SECONDS = 5.0
"""Curves and panels move into place."""


def main() -> None:
    """Takes the picture."""
    runs, picture = map(Path, sys.argv[1:])
    with tensorboard(runs) as board, browser(width=1180, height=982) as page:
        page.open(f"{board}/?smoothing=0&tagFilter={quote(TAGS)}#timeseries")
        wait_until(lambda: page.run(DRAWN))
        page.run(CLOSE_SETTINGS)
        wait_until(lambda: page.run(DRAWN) >= 4)
        time.sleep(SETTLING_SECONDS)
        page.picture(picture)


if __name__ == "__main__":
    main()
