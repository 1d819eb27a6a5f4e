"""Corpus → dataset directory. driver.py drives, tasks.py says what there is to do, worker.py does it."""

from gpt2dist.preprocessing.driver import check, prepare, prepare_part
from gpt2dist.preprocessing.tasks import PreprocessingJob

__all__ = ["PreprocessingJob", "check", "prepare", "prepare_part"]
