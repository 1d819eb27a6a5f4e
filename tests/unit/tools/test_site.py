"""The site has all pages, its links lead somewhere, and it builds without a warning."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from gpt2dist.cli import VERBS
from tests.support import REPOSITORY
from tools.site.hooks import ADDED, COMMANDS, commands, rewrite_links

AT = "https://example.org/project"


def pages(nav):
    """Paths of the pages of a navigation."""
    for entry in nav:
        found = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [found] if isinstance(found, str) else pages(found)


def test_each_page_is_in_the_navigation_once():
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    files = {str(path.relative_to(REPOSITORY / "docs")) for path in (REPOSITORY / "docs").rglob("*.md")}
    assert sorted(pages(settings["nav"])) == sorted({*files, *ADDED, COMMANDS})


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "docs/guides/training.md", "guides/training.md"),
        ("guides/training.md", "../../launch/README.md", "../launch.md"),
        (
            "guides/training.md",
            "../design/compute.md#deterministic-runs",
            "../design/compute.md#deterministic-runs",
        ),
        ("launch.md", "../docs/guides/cluster.md", "guides/cluster.md"),
        ("guides/training.md", "#upload-each-checkpoint", "#upload-each-checkpoint"),
        ("guides/training.md", "../../configs/schema.json", f"{AT}/blob/main/configs/schema.json"),
        ("index.md", "configs", f"{AT}/tree/main/configs"),
        ("index.md", "https://example.org", "https://example.org"),
    ],
)
def test_links_that_work_in_the_repository_work_on_the_site(page, link, expected):
    known = {"guides/training.md", "guides/cluster.md", "design/compute.md", *ADDED}
    assert rewrite_links(f"[x]({link})", page, AT, known) == f"[x]({expected})"


def test_a_link_to_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"README\.md: there is no docs/gone\.md"):
        rewrite_links("[x](docs/gone.md)", "index.md", AT, set())


def test_the_page_of_commands_has_every_verb():
    titles = re.findall(r"^#{2,3} (.*)", commands(), re.MULTILINE)
    assert [title for title in titles if " " not in title] == list(VERBS)
    assert {"tokenizer train", "tokenizer import"} < set(titles)


@pytest.mark.skipif(not shutil.which("mkdocs", path=f"{sys.prefix}/bin"), reason="needs mkdocs: gpt2dist[docs]")
def test_it_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [f"{sys.prefix}/bin/mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "site"
    assert "gpt2dist preprocess" in (site / "reference/commands/index.html").read_text()
    assert "Read a configuration file" in (site / "reference/python/index.html").read_text()
