"""Check the evaluation section: the measures of other packages."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.errors import UserError
from gpt2dist.evaluation.measures import in_use


def check_measures(config: Config) -> Iterator[Problem]:
    """Check that the measures of installed packages and of the configuration can be imported and used."""
    try:
        in_use("text", config.evaluation.measures)
    except UserError as error:
        yield Problem("evaluation.measures", str(error))
