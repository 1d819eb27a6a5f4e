"""Corpus → dataset directory: `prepare` drives, tasks.py says what there is to do, worker.py does it."""
