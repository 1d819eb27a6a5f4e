"""Kubernetes: submit an indexed Job with a headless Service through `kubectl`, without an operator.

A Job cannot restart all its pods as a group. If a pod is evicted, the run therefore saves and stops on all pods,
each pod exits with code 75, and the Job replaces them all. If a pod vanishes, the others fail and are replaced,
too. The new pods wait for each other.
"""

import dataclasses
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gpt2dist.errors import RunError, UserError
from gpt2dist.run.submissions import CONFIG, SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work, require_positive
from gpt2dist.submission.schedulers import patch
from gpt2dist.submission.schedulers.base import CONTAINER_IMAGE, CPUS_PER_NODE, SAVE_SECONDS, Scheduler, option
from gpt2dist.submission.template import common_values, read, render

DEFAULT_SAVE_SECONDS = 300
RETRIES = 3
PORT = 29400
CONFIGURATION = Path(patch.SCRIPTS)
"""Directory in which the pods see the script and the configuration."""
RESERVED = (CONFIGURATION, *map(Path, ("/dev", "/proc", "/sys")))
"""Directories of the pods. A volume must not be mounted at, inside or above them."""
MANIFEST = "job.yaml"
_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


@dataclasses.dataclass(frozen=True)
class Kubernetes(Scheduler):
    """Scheduler that submits jobs to Kubernetes.

    Attributes:
        container_image: Image that the pods run.
        volume: Volumes, each as `CLAIM:PATH`: a volume claim, and the path at which it is mounted both on this
            machine and in the pods.
        namespace: Namespace of the job; None for that of kubectl's context.
        cpus_per_node: Number of cores that each pod requests.
        save_seconds: Seconds that a pod has to save when it is asked to stop; None for 300.
        retries: How many failures of all pods are retried before the job fails; None for 3.
        patch: YAML file to merge into the manifest: node selectors, tolerations, queues …; None for none.
    """

    cannot: ClassVar = {"tasks": "which starts a single job", "dask": "which preprocesses in a single pod"}

    container_image: str | None = option(**CONTAINER_IMAGE)
    volume: Sequence[str] | None = option(
        action="append",
        metavar="CLAIM:PATH",
        help="a volume claim, and the path of its mount, both here and in the job; repeatable",
    )
    namespace: str | None = option(metavar="NAME", help="default: that of kubectl's context")
    cpus_per_node: int | None = option(**CPUS_PER_NODE)
    save_seconds: int | None = option(**SAVE_SECONDS)
    retries: int | None = option(type=int, metavar="N", help="failures of all pods that are retried (default: 3)")
    patch: str | None = option(
        metavar="FILE",
        help="YAML to merge into the manifest by kind: node selectors, tolerations, pull secrets, queues …",
    )

    def check(self, work: Work) -> None:
        """Check the options, and that a volume contains each path of the work.

        Raises:
            UserError: An option is invalid or missing, or no volume contains a path.
        """
        if not (self.container_image or "").strip():
            raise UserError(
                "--container-image: missing; name the image that the pods run, whose python has gpt2dist"
            )
        if self.namespace is not None and not re.fullmatch(_NAME, self.namespace):
            raise UserError(
                f"--namespace {self.namespace}: not a valid name in Kubernetes; write one such as team-a"
            )
        if self.cpus_per_node is not None:
            require_positive("--cpus-per-node", self.cpus_per_node, "the cores of each pod")
        if self.save_seconds is not None:
            require_positive("--save-seconds", self.save_seconds, "the time to save")
        if self.retries is not None and self.retries < 0:
            raise UserError(f"--retries {self.retries}: must be at least 0")
        mounted = self._volumes().values()
        for path in work.paths:
            if not any(path.is_relative_to(directory) for directory in mounted):
                raise UserError(
                    f"{path}: in no volume of the pods; add --volume CLAIM:PATH, where PATH is a directory above "
                    "it, at which the claim is mounted both here and in the pods"
                )

    def _volumes(self) -> dict[str, Path]:
        """Return the mount path of each volume claim."""
        found: dict[str, Path] = {}
        for word in self.volume or ():
            claim, _, path = word.partition(":")
            if not re.fullmatch(_NAME, claim) or not path.startswith("/") or ":" in path or claim in found:
                raise UserError(f"--volume {word}: write CLAIM:PATH, each claim once, such as training:/data")
            found[claim] = _mount_path(word, path, found)
        return found

    def check_resources(self, job: SchedulerJob) -> None:
        """Check that the patch can be merged into the manifest.

        Raises:
            UserError: It cannot be read or merged, or changes what the run relies on.
        """
        self._documents(job)

    def _documents(self, job: SchedulerJob) -> list[dict[str, Any]]:
        """Return the documents of the manifest, patched."""
        import yaml

        template, values = yaml.safe_load_all(read("kubernetes/manifest.yaml")), self._values(job)
        documents = [_without_empty(_filled(each, values)) for each in template]
        return documents if self.patch is None else patch.apply(documents, Path(self.patch))

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Render the manifest."""
        import yaml

        text = yaml.dump_all(
            self._documents(job), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=114
        )
        by_hand = f"# Written by `gpt2dist submit`. To submit it by hand: {self.command(job)}"
        return {MANIFEST: f"# {job.title}\n{by_hand}\n{text}"}

    def _values(self, job: SchedulerJob) -> dict[str, Any]:
        """Return the values for the template of the manifest, by name."""
        files = {SCRIPT: _script(job)}
        if job.work.config:
            files[CONFIG] = job.work.config.to_yaml()
        claims = list(self._volumes().items())
        requested = {"cpu": str(self.cpus_per_node)} if self.cpus_per_node else None
        limits = {"nvidia.com/gpu": str(job.gpus_per_node)} if job.gpus_per_node else None
        return {
            "name": name_of(job),
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/name": "gpt2dist", "app.kubernetes.io/instance": name_of(job)},
            "files": files,
            "nodes": job.nodes,
            "backoff_limit": job.nodes * (RETRIES if self.retries is None else self.retries),
            "save_seconds": self.save_seconds or DEFAULT_SAVE_SECONDS,
            "image": self.container_image,
            "resources": {"requests": requested, "limits": limits},
            "mounts": [
                {"name": "record", "mountPath": str(CONFIGURATION), "readOnly": True},
                {"name": "shared-memory", "mountPath": "/dev/shm"},
                *({"name": f"claim-{i}", "mountPath": str(path)} for i, (_, path) in enumerate(claims)),
            ],
            "volumes": [
                {"name": "record", "configMap": {"name": name_of(job)}},
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                *(
                    {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}}
                    for i, (claim, _) in enumerate(claims)
                ),
            ],
        }

    def command(self, job: SchedulerJob) -> str:
        """Return the command that submits the job."""
        return shlex.join(["kubectl", "create", "-f", str(job.submission_directory / MANIFEST)])

    def submit(self, job: SchedulerJob) -> list[str]:
        """Submit the job, and return its name.

        Raises:
            UserError: kubectl is not installed.
            RunError: kubectl failed.
        """
        if not shutil.which("kubectl"):
            raise UserError(f"kubectl not found on this machine; where it is installed, run: {self.command(job)}")
        done = subprocess.run(shlex.split(self.command(job)), capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise RunError(
                f"kubectl refused {job.submission_directory / MANIFEST} (exit code {done.returncode}): {said}"
            )
        return [name_of(job)]

    def next_steps(self, job: SchedulerJob, ids: list[str]) -> str:
        """Return the commands that watch, stop and resume a job."""
        kubectl = f"kubectl --namespace {self.namespace}" if self.namespace else "kubectl"
        manifest = shlex.quote(str(job.submission_directory / MANIFEST))
        return f"""\
  {kubectl} get pods --selector app.kubernetes.io/instance={ids[0]}
  {kubectl} logs --follow --selector app.kubernetes.io/instance={ids[0]} --max-log-requests {job.nodes} --prefix
  kubectl delete -f {manifest}          saves and stops it
  {self.command(job)}          resumes it"""


def _mount_path(word: str, path: str, others: Mapping[str, Path]) -> Path:
    """Return the normalised path of a volume.

    Args:
        word: The value of --volume, for messages.
        path: The absolute path in it.
        others: Mount paths of the volumes before it, by claim.

    Raises:
        UserError: Another volume has this path, or it would hide a directory that the pods need.
    """
    place = Path(os.path.normpath("/" + path.lstrip("/")))
    for claim, other in others.items():
        if place == other:
            raise UserError(f"--volume {word}: {claim} is mounted there already; give each claim its own path")
    for reserved in RESERVED:
        if place.is_relative_to(reserved) or reserved.is_relative_to(place):
            raise UserError(
                f"--volume {word}: the pods need their own {reserved}, which a mount at {place} would hide or "
                "change; mount it at a path such as /data"
            )
    return place


def name_of(job: SchedulerJob) -> str:
    """Return the name of a job in Kubernetes, which starts with a letter and is unique to the submission."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.work.name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"run-{plain}".rstrip("-")
    place = hashlib.sha256(str(job.submission_directory).encode()).hexdigest()[:6]
    return f"{plain[:36].rstrip('-')}-{job.submission_directory.name}-{place}"


def _script(job: SchedulerJob) -> str:
    """Return the script that each pod runs."""
    values = common_values(dataclasses.replace(job, submission_directory=CONFIGURATION))
    command = "{python} -m gpt2dist {arguments}"
    if job.gpus_per_node:
        name = name_of(job)
        command = (
            '{python} -m gpt2dist launch --nnodes {nodes} --node-rank "$JOB_COMPLETION_INDEX" '
            "--nproc-per-node {gpus_per_node} --max-restarts 0 \\\n"
            f"  --master-addr {name}-0.{name} --master-port {PORT} {{arguments}}"
        )
    kind = "train" if job.work.config else "other"
    values["command"] = command.format(**values, nodes=job.nodes)
    values["stopped"] = render(f"kubernetes/stopped-{kind}.sh", values).rstrip()
    return render("kubernetes/job.sh", values)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a parsed template with its values filled in."""
    match template:
        case str() if name := re.fullmatch(r"\{\{(\w+)\}\}", template):
            return values[name[1]]
        case dict():
            return {key: _filled(value, values) for key, value in template.items()}
        case list():
            return [_filled(each, values) for each in template]
    return template


def _without_empty(value: Any) -> Any:
    """Remove keys whose value is None, or an object of which nothing remains."""
    match value:
        case dict():
            inner = {key: _without_empty(each) for key, each in value.items()}
            return {key: each for key, each in inner.items() if each is not None and each != {}}
        case list():
            return [_without_empty(each) for each in value]
    return value


@functools.cache
def _dumper() -> Any:
    """Return a YAML dumper that writes multi-line text as literal blocks, and no aliases for repeated objects."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, represent_text)
    return Dumper
