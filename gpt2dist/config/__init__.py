"""The run configuration: its schema and its reader."""

from gpt2dist.config.reading import Problem, raise_problems
from gpt2dist.config.schema import Config, read

__all__ = ["Config", "Problem", "raise_problems", "read"]
