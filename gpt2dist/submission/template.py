"""Fills in the scripts of `templates/`, which name what is to be filled in as {{name}}."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from gpt2dist.submission.plan import Job

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, values: Mapping[str, str]) -> str:
    """A script, with empty lines in a row made one.

    Args:
        template: Name of a file in `templates/`.
        values: What to put for each {{name}}, as it is to stand in the script.
    """
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    filled = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
    return re.sub(r"\n{3,}", "\n\n", filled)


def common_values(job: Job) -> dict[str, str]:
    """What every script needs."""
    exports = (f"export {name}={shlex.quote(value)}" for name, value in job.environment.items())
    ranks = f"{job.nodes} × {job.gpus_per_node} = {job.world_size}"
    return {
        "title": f"{job.name}: training on {ranks} ranks (nodes × GPUs)",
        "script": shlex.quote(str(job.script)),
        "run": shlex.quote(str(job.run)),
        "record": shlex.quote(str(job.record)),
        "directory": shlex.quote(str(job.directory)),
        "exports": "\n".join(exports),
        "python": shlex.quote(job.python),
        "gpus_per_node": str(job.gpus_per_node),
    }
