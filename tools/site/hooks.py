"""Hooks of mkdocs: pages that are not files in docs/, and links out of docs/.

In the repository, links are relative to the file that has them, so that they work there. On the site, a link to a
file that is a page becomes a link to the page, and a link to any other file one to the repository.
"""

import posixpath
import re
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
ADDED = {
    "index.md": "README.md",
    "examples.md": "examples/README.md",
    "launch.md": "launch/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site → file in the repository."""
COMMANDS = "reference/commands.md"

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not files in docs/."""
    from mkdocs.structure.files import File

    for page, path in ADDED.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMANDS, content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page."""
    return rewrite_links(markdown, page.file.src_uri, config["repo_url"], {file.src_uri for file in files})


def rewrite_links(markdown: str, page: str, repository: str, pages: set[str]) -> str:
    """Return a page with links that work on the site.

    Args:
        markdown: The page.
        page: Its path on the site, such as "guides/training.md".
        repository: Address of the repository.
        pages: Paths of all pages and images of the site.

    Raises:
        ValueError: A link names a file that does not exist.
    """
    source = ADDED.get(page, f"docs/{page}")
    page_of = {path: name for name, path in ADDED.items()} | {f"docs/{name}": name for name in pages}

    def rewritten(link: re.Match[str]) -> str:
        target = urlsplit(link[2])
        if target.scheme or target.netloc or not target.path:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target.path))
        anchor = f"#{target.fragment}" if target.fragment else ""
        if path in page_of:
            return f"{link[1]}{posixpath.relpath(page_of[path], posixpath.dirname(page) or '.')}{anchor}{link[3]}"
        if not (ROOT / path).exists():
            raise ValueError(f"{source}: there is no {path}")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{link[1]}{repository}/{kind}/main/{path}{anchor}{link[3]}"

    return _LINK.sub(rewritten, markdown)


def commands() -> str:
    """Return the page of all verbs with their help texts, as a terminal of 100 columns shows them."""
    from unittest import mock

    from gpt2dist.cli import VERBS

    with mock.patch.dict("os.environ", COLUMNS="100"):
        helps = {verb: list(_helps(verb)) for verb in VERBS}
    parts = [
        "# Commands\n",
        "`gpt2dist VERB --help` prints the same.\n",
        "| verb | purpose |\n|---|---|",
        *(f"| [{verb}](#{verb}) | {summary} |" for verb, summary in VERBS.items()),
        "",
    ]
    for verb, texts in helps.items():
        for title, text in texts:
            level = "##" if title == verb else "###"
            parts += [f"{level} {title}\n", f"```text\n{text.rstrip()}\n```\n"]
    return "\n".join(parts)


def _helps(verb: str) -> Iterator[tuple[str, str]]:
    """Yield title and help text of a verb and of the verbs below it, such as `tokenizer train`."""
    from gpt2dist.cli import build_parser

    parser = _below(build_parser(verb))[verb]
    yield verb, parser.format_help()
    for name, nested in _below(parser).items():
        yield f"{verb} {name}", nested.format_help()


def _below(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """Return the parsers of the verbs of a parser by name."""
    groups = [action.choices for action in parser._actions if isinstance(action, _SubParsersAction)]
    return {name: nested for group in groups for name, nested in group.items()}
