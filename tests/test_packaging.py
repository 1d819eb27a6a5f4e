"""What an index shows of the distribution. tools/check_package.sh builds, checks and installs it."""

import re
import runpy
import tomllib

from gpt2dist.config import presets
from tests.support import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINK = re.compile(r"\]\(([^)#]+)")


def test_the_links_of_the_readme_lead_to_files_of_the_repository():
    shown = runpy.run_path(str(REPOSITORY / "setup.py"))["readme"]()
    in_checkout = LINK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    base = f"{presets.REPOSITORY_URL}/blob/main/"
    assert len(in_checkout) > 10
    assert LINK.findall(shown) == [link if "://" in link else base + link for link in in_checkout]


def test_one_address_of_the_repository():
    assert PROJECT["urls"]["Source"] == presets.REPOSITORY_URL
    assert all(url.startswith(presets.REPOSITORY_URL) for url in PROJECT["urls"].values())
