"""Kubernetes: submit an indexed Job with a headless Service through `kubectl`, without an operator.

A Job cannot restart all its pods as a group. If a pod is evicted, the run therefore saves and stops on all pods.
Each pod exits with code 75, and the Job replaces it. Pods that failed because another pod is gone are replaced
too, and the new pods wait for each other.
"""

import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from gpt2dist.errors import RunError, UserError
from gpt2dist.run.submissions import CONFIG, SCRIPT
from gpt2dist.submission.job import SchedulerJob, Work, require_positive
from gpt2dist.submission.template import common_values, read, render

SAVE_SECONDS = 300
RETRIES = 3
PORT = 29400
CONFIGURATION = Path("/etc/gpt2dist")
"""Directory in which the pods see the files of the record."""
RESERVED = (CONFIGURATION, *map(Path, ("/dev", "/proc", "/sys")))
"""Directories of the pods that no volume may replace, lie in or lie above."""
MANIFEST = "job.yaml"
_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


@dataclasses.dataclass(frozen=True)
class Kubernetes:
    """Scheduler that submits jobs to Kubernetes.

    Attributes:
        container_image: Image that the pods run.
        volume: `CLAIM:PATH` words: a volume claim, and the path at which it is mounted here and in the pods.
        namespace: Namespace of the job; None for that of kubectl's context.
        cpus_per_node: Number of cores that each pod requests.
        save_seconds: Seconds that a pod has for saving when it is told to stop; None for 300.
        retries: How many times all pods may fail before the job fails; None for 3.
    """

    container_image: str | None = None
    volume: Sequence[str] | None = None
    namespace: str | None = None
    cpus_per_node: int | None = None
    save_seconds: int | None = None
    retries: int | None = None

    name: ClassVar[str] = "kubernetes"

    def check(self, work: Work) -> None:
        """Check the options, and that the pods can see all paths of the work.

        Raises:
            UserError: An option is invalid or missing, or a path is in no volume.
        """
        if not (self.container_image or "").strip():
            raise UserError("--container-image: missing; the image that the pods run, whose python has gpt2dist")
        if self.namespace is not None and not re.fullmatch(_NAME, self.namespace):
            raise UserError(f"--namespace {self.namespace}: no name that Kubernetes has; write such as team-a")
        for option in ("cpus_per_node", "save_seconds"):
            if (value := getattr(self, option)) is not None:
                require_positive(f"--{option.replace('_', '-')}", value, "or be left out")
        if self.retries is not None and self.retries < 0:
            raise UserError(f"--retries {self.retries}: must be at least 0")
        mounted = self._volumes().values()
        for path in work.paths:
            if not any(path.is_relative_to(directory) for directory in mounted):
                raise UserError(
                    f"{path}: in no volume of the pods; add --volume CLAIM:PATH, where PATH is a directory above "
                    "it that is mounted there in the pods, too"
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

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """Return the file to write: the name of the manifest → its text."""
        template, values = yaml.safe_load_all(read("kubernetes/manifest.yaml")), self._values(job)
        documents = [_without_nothing(_filled(each, values)) for each in template]
        text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=114)
        return {MANIFEST: f"# {job.title}\n# Made by `gpt2dist submit`. By hand: {self.command(job)}\n{text}"}

    def _values(self, job: SchedulerJob) -> dict[str, Any]:
        """Return the value of each name in the template of the manifest."""
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
            "save_seconds": self.save_seconds or SAVE_SECONDS,
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
        return shlex.join(["kubectl", "create", "-f", str(job.record / MANIFEST)])

    def submit(self, job: SchedulerJob) -> list[str]:
        """Submit the job, and return its name.

        Raises:
            UserError: kubectl is not installed.
            RunError: kubectl failed.
        """
        if not shutil.which("kubectl"):
            raise UserError(f"no kubectl on this machine; where there is one: {self.command(job)}")
        done = subprocess.run(shlex.split(self.command(job)), capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise RunError(f"kubectl refused {job.record / MANIFEST} (exit code {done.returncode}): {said}")
        return [name_of(job)]

    def how_to_follow(self, job: SchedulerJob, names: list[str]) -> str:
        """Return the commands that watch, stop and resume a job."""
        kubectl = f"kubectl --namespace {self.namespace}" if self.namespace else "kubectl"
        manifest = shlex.quote(str(job.record / MANIFEST))
        return f"""\
  {kubectl} get pods --selector app.kubernetes.io/instance={names[0]}
  {kubectl} logs --follow --selector app.kubernetes.io/instance={names[0]} --max-log-requests {job.nodes} --prefix
  kubectl delete -f {manifest}          stops it with what is done saved
  {self.command(job)}          goes on"""


def _mount_path(word: str, path: str, others: Mapping[str, Path]) -> Path:
    """Return the normalised path of a volume.

    Args:
        word: The word of --volume, for messages.
        path: The absolute path in it.
        others: Mount path of each claim before it.
    """
    place = Path(os.path.normpath("/" + path.lstrip("/")))
    for claim, other in others.items():
        if place == other:
            raise UserError(f"--volume {word}: {claim} is mounted there, too; give each claim its own path")
    for reserved in RESERVED:
        if place.is_relative_to(reserved) or reserved.is_relative_to(place):
            raise UserError(
                f"--volume {word}: the pods have their own {reserved}, which {place} would hide or change; mount "
                "it at a path such as /data"
            )
    return place


def name_of(job: SchedulerJob) -> str:
    """Return the name of a job in Kubernetes, which starts with a letter and is unique to the submission."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.work.name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"run-{plain}".rstrip("-")
    place = hashlib.sha256(str(job.record).encode()).hexdigest()[:6]
    return f"{plain[:36].rstrip('-')}-{job.record.name}-{place}"


def _script(job: SchedulerJob) -> str:
    """Return the script that each pod runs."""
    values = common_values(dataclasses.replace(job, record=CONFIGURATION))
    command = "{python} -m gpt2dist {words}"
    if job.gpus_per_node:
        name = name_of(job)
        command = (
            '{python} -m gpt2dist launch --nnodes {nodes} --node-rank "$JOB_COMPLETION_INDEX" '
            "--nproc-per-node {gpus_per_node} --max-restarts 0 \\\n"
            f"  --master-addr {name}-0.{name} --master-port {PORT} {{words}}"
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


def _without_nothing(value: Any) -> Any:
    """Remove keys whose value is None or an object without other keys."""
    match value:
        case dict():
            inner = {key: _without_nothing(each) for key, each in value.items()}
            return {key: each for key, each in inner.items() if each is not None and each != {}}
        case list():
            return [_without_nothing(each) for each in value]
    return value


class _Dumper(yaml.SafeDumper):
    """YAML dumper that writes multi-line text as literal blocks, and repeated objects in full (no aliases)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
