"""Kubernetes: an indexed Job with a headless Service, which need no operator, and `kubectl`.

A gang that is to start again together has no word for it in a Job. So a run whose pod is evicted stops on all
pods with everything saved, and each ends with the exit code 75, which the Job answers with a new pod. Pods that
failed because another is gone are started again too, and the new ones wait for each other.
"""

import dataclasses
import hashlib
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
"""Where a pod finds the files of the record."""
MANIFEST = "job.yaml"
_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


@dataclasses.dataclass(frozen=True)
class Kubernetes:
    """Submits jobs to Kubernetes.

    Attributes:
        container_image: The image to run in.
        volume: Words `CLAIM:PATH`: a volume claim, and where it is mounted, here as in the pods.
        namespace: Where; None for that of kubectl's context.
        cpus_per_node: Cores that each pod requests.
        save_seconds: What a pod that is to end gets to save; None for 300.
        retries: How often all pods may fail until the job does; None for 3.
    """

    container_image: str | None = None
    volume: Sequence[str] | None = None
    namespace: str | None = None
    cpus_per_node: int | None = None
    save_seconds: int | None = None
    retries: int | None = None

    name: ClassVar[str] = "kubernetes"

    def check(self, work: Work) -> None:
        """Refuses what Kubernetes would, and paths that a pod would not see.

        Raises:
            UserError: One option is wrong or missing.
        """
        if not self.container_image:
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
        """Claim → where it is mounted."""
        found: dict[str, Path] = {}
        for word in self.volume or ():
            claim, _, path = word.partition(":")
            if not re.fullmatch(_NAME, claim) or not Path(path).is_absolute() or claim in found:
                raise UserError(f"--volume {word}: write CLAIM:PATH, each claim once, such as training:/data")
            found[claim] = Path(path)
        return found

    def files(self, job: SchedulerJob) -> dict[str, str]:
        """The manifest, by its name."""
        template, values = yaml.safe_load_all(read("kubernetes/manifest.yaml")), self._values(job)
        documents = [_without_nothing(_filled(each, values)) for each in template]
        text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=114)
        return {MANIFEST: f"# {job.title}\n# Made by `gpt2dist submit`. By hand: {self.command(job)}\n{text}"}

    def _values(self, job: SchedulerJob) -> dict[str, Any]:
        """What stands in the manifest for each name in the template."""
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
        """The command that submits the job."""
        return shlex.join(["kubectl", "create", "-f", str(job.record / MANIFEST)])

    def submit(self, job: SchedulerJob) -> list[str]:
        """Submits the job; returns its name.

        Raises:
            UserError: There is no kubectl here.
            RunError: kubectl refused.
        """
        if not shutil.which("kubectl"):
            raise UserError(f"no kubectl on this machine; where there is one: {self.command(job)}")
        done = subprocess.run(shlex.split(self.command(job)), capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise RunError(f"kubectl refused {job.record / MANIFEST} (exit code {done.returncode}): {said}")
        return [name_of(job)]

    def how_to_follow(self, job: SchedulerJob, names: list[str]) -> str:
        """What to type to watch and to stop a job."""
        kubectl = f"kubectl --namespace {self.namespace}" if self.namespace else "kubectl"
        manifest = shlex.quote(str(job.record / MANIFEST))
        return f"""\
  {kubectl} get pods --selector app.kubernetes.io/instance={names[0]}
  {kubectl} logs --follow --selector app.kubernetes.io/instance={names[0]} --max-log-requests {job.nodes} --prefix
  kubectl delete -f {manifest}          stops it with what is done saved
  {self.command(job)}          goes on"""


def name_of(job: SchedulerJob) -> str:
    """What Kubernetes calls a job: begins with a letter, and differs for each submission."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.work.name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"run-{plain}".rstrip("-")
    place = hashlib.sha256(str(job.record).encode()).hexdigest()[:6]
    return f"{plain[:36].rstrip('-')}-{job.record.name}-{place}"


def _script(job: SchedulerJob) -> str:
    """What each pod runs."""
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
    """A parsed template with its values in their places."""
    match template:
        case str() if name := re.fullmatch(r"\{\{(\w+)\}\}", template):
            return values[name[1]]
        case dict():
            return {key: _filled(value, values) for key, value in template.items()}
        case list():
            return [_filled(each, values) for each in template]
    return template


def _without_nothing(value: Any) -> Any:
    """Leaves out keys whose value is None, or an object of such keys only."""
    match value:
        case dict():
            inner = {key: _without_nothing(each) for key, each in value.items()}
            return {key: each for key, each in inner.items() if each is not None and each != {}}
        case list():
            return [_without_nothing(each) for each in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and repeats what stands in several places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
