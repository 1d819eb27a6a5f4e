"""The run configuration: its schema and its reader."""

from gpt2dist.config.configuration import Config, read
from gpt2dist.config.reading import Problem, raise_problems

__all__ = ["Config", "Problem", "raise_problems", "read"]
