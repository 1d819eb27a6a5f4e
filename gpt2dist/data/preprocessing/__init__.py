"""Corpus → dataset directory. `prepare` drives, tasks.py says what there is to do, worker.py does it."""

from gpt2dist.data.preprocessing.prepare import prepare, prepare_part
from gpt2dist.data.preprocessing.tasks import Job

__all__ = ["Job", "prepare", "prepare_part"]
