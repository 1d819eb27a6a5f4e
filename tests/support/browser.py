"""A Chromium without a window, driven over the WebDriver protocol by what Python has itself."""

import base64
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.commands import started, wait_until
from tests.support.ranks import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "no Chromium with its driver (Debian: chromium chromium-driver)"
"""Why there is no browser; None where there is one."""

PATIENCE = 180.0
"""Seconds that a command to the browser may take, on a machine that does much else."""

TEXTS = """
const texts = [];
const collect = (node) => {
    if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) texts.push(node.textContent.trim());
    if (["STYLE", "SCRIPT"].includes(node.tagName)) return;
    if (node.shadowRoot) collect(node.shadowRoot);
    node.childNodes.forEach(collect);
};
collect(document.body);
return texts;
"""


class Browser:
    """A page in a browser.

    Args:
        driver: Address of the WebDriver server.
        profile: An empty directory for what the browser keeps.
        width: Of the window, pixels.
        height: Likewise.
    """

    def __init__(self, driver: str, profile: Path, width: int = 1280, height: int = 900):
        options = {
            "binary": CHROMIUM,
            "args": [
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *(f"--user-data-dir={profile}", f"--window-size={width},{height}", "--hide-scrollbars"),
            ],
        }
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        self._session = f"{driver}/session"
        made = self._call("", {"capabilities": capabilities})
        self._session += f"/{made['sessionId']}"

    def open(self, address: str) -> None:
        """Loads a page."""
        self._call("/url", {"url": "about:blank"})  # else another fragment would not be loaded anew
        self._call("/url", {"url": address})

    def texts(self) -> list[str]:
        """All texts of the page, those in shadow trees too, in the order of the document."""
        return self.run(TEXTS)

    def wait_for(self, condition: Callable[[list[str]], Any], seconds: float = 120) -> list[str]:
        """Waits until the texts of the page are as they should be, and returns them."""
        texts: list[str] = []

        def is_there() -> Any:
            texts[:] = self.texts()
            return condition(texts)

        wait_until(is_there, seconds)
        return texts

    def run(self, script: str) -> Any:
        """Runs JavaScript in the page and returns what it returns."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def picture(self, path: Path) -> None:
        """Keeps what the window shows as a PNG."""
        with urllib.request.urlopen(f"{self._session}/screenshot", timeout=PATIENCE) as answer:
            path.write_bytes(base64.b64decode(json.load(answer)["value"]))

    def close(self) -> None:
        """Ends the browser."""
        urllib.request.urlopen(urllib.request.Request(self._session, method="DELETE"), timeout=PATIENCE).close()

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._session + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """A TensorBoard that looks at a directory every second; its address."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1"]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), *options]
    with started(command, stderr=subprocess.DEVNULL):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser with a profile of its own; nothing of it is left behind."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        started([str(DRIVER), f"--port={port}"], stderr=subprocess.DEVNULL),
    ):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/status"))
        with contextlib.closing(Browser(f"http://127.0.0.1:{port}", Path(profile), width, height)) as page:
            yield page


def answers(address: str) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False
