"""Render the files of `templates/`, in which {{name}} stands for a value."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from gpt2dist.submission.job import SchedulerJob

TEMPLATES = Path(__file__).parent / "templates"


def read(template: str | Path) -> str:
    """Return the text of a template.

    Args:
        template: Name of a file in `templates/`, or the absolute path of a template of another package.
    """
    return (TEMPLATES / template).read_text(encoding="utf-8")


def render(template: str | Path, values: Mapping[str, str]) -> str:
    """Render a script, and merge consecutive blank lines into one.

    Args:
        template: As for `read`.
        values: Text to insert for each {{name}}, already quoted for the script.
    """
    filled = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], read(template))
    return re.sub(r"\n{3,}", "\n\n", filled)


def common_values(job: SchedulerJob) -> dict[str, str]:
    """Return the values that every script needs, quoted for bash."""
    exports = (f"export {name}={shlex.quote(value)}" for name, value in job.environment.items())
    return {
        "title": job.title,
        "script": shlex.quote(str(job.script)),
        "run": shlex.quote(str(job.work.run)),
        "submission_directory": shlex.quote(str(job.submission_directory)),
        "working_directory": shlex.quote(str(job.working_directory)),
        "exports": "\n".join(exports),
        "python": shlex.quote(job.python),
        "arguments": shlex.join(job.arguments),
        "gpus_per_node": str(job.gpus_per_node),
        "endless": "true" if job.work.endless else "false",
    }
