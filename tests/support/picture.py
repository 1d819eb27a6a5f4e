"""Makes the picture of TensorBoard in the README, of the runs in a folder; needs Chromium and its driver.

python -m tests.support.picture RUNS docs/images/tensorboard.png
"""

import json
import sys
import time
from pathlib import Path
from urllib.parse import quote

from tests.support.browser import browser, tensorboard
from tests.support.commands import wait_until

TAGS = "^(eval/[^/]*/loss|train/(loss|lr|grad_norm))$"
SETTINGS = {"sideBarWidthInPercent": 24, "timeSeriesSettingsPaneOpened": False, "stepSelectorEnabled": False}
"""As TensorBoard keeps them in the browser: room for the runs, none for the panel of settings."""
DRAWN = 'return document.querySelectorAll("scalar-card canvas").length'
SETTLING_SECONDS = 5.0
"""Curves and panels move into place."""


def main() -> None:
    """Takes the picture."""
    runs, picture = map(Path, sys.argv[1:])
    with tensorboard(runs) as board, browser(width=1200, height=982) as page:
        page.open(board)
        page.run(f"localStorage.setItem('_tb_global_settings', {json.dumps(json.dumps(SETTINGS))})")
        page.open(f"{board}/?smoothing=0&tagFilter={quote(TAGS)}#timeseries")
        wait_until(lambda: page.run(DRAWN) >= 4, 180)
        time.sleep(SETTLING_SECONDS)
        page.picture(picture)


if __name__ == "__main__":
    main()
