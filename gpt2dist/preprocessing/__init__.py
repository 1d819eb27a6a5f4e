"""Build a dataset directory from a corpus: tasks.py plans, driver.py coordinates, worker.py runs one task."""

from gpt2dist.preprocessing.driver import check, prepare, prepare_part
from gpt2dist.preprocessing.filters import Skip
from gpt2dist.preprocessing.job import PreprocessingJob

__all__ = ["PreprocessingJob", "Skip", "check", "prepare", "prepare_part"]
