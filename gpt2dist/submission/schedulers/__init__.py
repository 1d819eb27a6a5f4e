"""Schedulers that `gpt2dist submit` can submit jobs to, one module each."""

from gpt2dist.registry import Registry
from gpt2dist.submission.schedulers.base import Scheduler

BUILTIN = {
    "slurm": "gpt2dist.submission.schedulers.slurm:Slurm",
    "local": "gpt2dist.submission.schedulers.local:Local",
    "kubernetes": "gpt2dist.submission.schedulers.kubernetes:Kubernetes",
}
SCHEDULERS: Registry[type[Scheduler]] = Registry("scheduler", "gpt2dist.schedulers", BUILTIN, Scheduler)
"""All schedulers, by the value of `--scheduler`."""
