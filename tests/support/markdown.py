"""Fenced code in Markdown pages."""

import re


def blocks(page, kind):
    """Return the texts of the fenced blocks of one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    return [text for language, text in fenced if language == kind]
