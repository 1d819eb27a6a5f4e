"""Everything is in pyproject.toml, but for the README of the index, whose links lead to the repository."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def readme() -> str:
    """Return README.md with absolute links: an index has no files beside it."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = f"{project['urls']['Source']}/blob/main/"
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return re.sub(r"(\]\()(?!https?://|#)", rf"\g<1>{base}", text)


if __name__ == "__main__":
    setup(long_description=readme(), long_description_content_type="text/markdown")
