"""The manifest for Kubernetes: right by the schema of Kubernetes itself, and safe with awkward words."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from gpt2dist.errors import UserError
from gpt2dist.submission.job import SchedulerJob, Work
from gpt2dist.submission.schedulers.kubernetes import Kubernetes, name_of
from tests.support import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "tests/golden/kubernetes/v1.31.json").read_text())
KINDS = {"ConfigMap": "core.v1.ConfigMap", "Service": "core.v1.Service", "Job": "batch.v1.Job"}
RUN = Path("/data/runs/a")
WORK = Work("evaluate", "a", ("runs/a", "--data", "d"), RUN / "submission", (RUN,), endless=True)
JOB = SchedulerJob(WORK, RUN / "submission/001", Path("/data"), "python", nodes=2, gpus_per_node=8)
CORPUS = Work("preprocess", "b", ("c", "--output", "d"), Path("/data/d.submission"), (Path("/data"),))
CLUSTER = Kubernetes("image:1", ("training:/data",))


def documents(job: SchedulerJob, cluster: Kubernetes = CLUSTER) -> dict[str, dict]:
    """The objects of the manifest, by kind, each checked by the schema of its kind."""
    found = {each["kind"]: each for each in yaml.safe_load_all(cluster.files(job)["job.yaml"])}
    for kind, each in found.items():
        schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/io.k8s.api.{KINDS[kind]}"}
        jsonschema.Draft202012Validator(schema).validate(each)
    return found


@pytest.mark.parametrize(
    ("job", "cluster"),
    [
        (JOB, CLUSTER),
        (JOB, Kubernetes("i", ("a:/data", "b:/c"), "lab", cpus_per_node=4, save_seconds=9, retries=0)),
        (dataclasses.replace(JOB, work=CORPUS, nodes=1, gpus_per_node=0), CLUSTER),
    ],
)
def test_every_object_is_one_that_kubernetes_knows(job, cluster):
    found = documents(job, cluster)
    assert list(found) == list(KINDS)
    assert {each["metadata"].get("namespace") for each in found.values()} == {cluster.namespace}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "completions"), "2"),
        (("spec", "completion"), 2),
        (("spec", "template", "spec", "containers", 0, "volumeMount"), []),
        (("spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), ["2"]),
    ],
)
def test_the_schema_refuses_what_kubernetes_would(path, value):
    """Else the test above would hold nothing."""
    job = documents(JOB)["Job"]
    place = job
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    schema = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/io.k8s.api.batch.v1.Job"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(job)


def test_the_pods_are_a_gang_with_gpus_shared_memory_and_time_to_save():
    found = documents(JOB, dataclasses.replace(CLUSTER, save_seconds=120))
    spec = found["Job"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 120)
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
    assert volumes[mounts["/data"]]["persistentVolumeClaim"] == {"claimName": "training"}
    assert volumes[mounts["/etc/gpt2dist"]]["configMap"] == {"name": found["ConfigMap"]["metadata"]["name"]}
    # The name of the first pod is that of the Service's domain.
    name = found["Job"]["metadata"]["name"]
    assert found["Service"]["metadata"]["name"] == pod["subdomain"] == name
    assert found["Service"]["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert f"--master-addr {name}-0.{name} " in found["ConfigMap"]["data"]["job.sh"]


def test_wrong_input_is_not_tried_again_and_a_stop_does_not_count():
    spec = documents(JOB)["Job"]["spec"]
    assert [
        (rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in spec["podFailurePolicy"]["rules"]
    ] == [
        ("FailJob", [2]),
        ("Ignore", [75]),
        ("Ignore", None),  # evicted, preempted, drained
    ]
    assert spec["backoffLimit"] == 6  # each of three failures may be one of both pods


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("gpt2-124m", "gpt2-124m-001-"),
        ("My Run: it's\n{{name}} ü", "my-run-it-s-name-001-"),
        ("124m", "run-124m-001-"),
        ("—", "run-001-"),
        ("x" * 90, "x" * 36 + "-001-"),
    ],
)
def test_any_name_becomes_one_that_kubernetes_takes(name, begins):
    job = dataclasses.replace(JOB, work=dataclasses.replace(WORK, name=name))
    made = name_of(job)
    assert made.startswith(begins) and len(f"{made}-9999") <= 63
    assert name_of(dataclasses.replace(job, submission_directory=Path("/elsewhere/001"))) != made


def test_awkward_words_stay_what_they_are():
    awkward = "it's: {{name}} $(HOME) `x` #\t— ü"
    work = dataclasses.replace(WORK, arguments=(awkward,))
    image = "{{name}}: &a *b"
    job = dataclasses.replace(JOB, work=work, environment={"A": awkward}, working_directory=Path("/tmp"))
    found = documents(job, dataclasses.replace(CLUSTER, container_image=image))
    assert found["Job"]["spec"]["template"]["spec"]["containers"][0]["image"] == image
    script = found["ConfigMap"]["data"]["job.sh"].replace("python -m", 'printf "%s\\n" "$A"')
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "JOB_COMPLETION_INDEX": "0"}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == awkward and done.stdout.splitlines()[-1] == awkward


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Kubernetes(), "--container-image: missing; name the image that the pods run"),
        (
            Kubernetes("i", ("a:/data",), "Team A"),
            "--namespace Team A: not a valid name in Kubernetes; write one",
        ),
        (Kubernetes("i", ("a:/data",), cpus_per_node=0), "--cpus-per-node 0: must be at least 1"),
        (Kubernetes("i", ("a:/data",), save_seconds=0), "--save-seconds 0: must be at least 1"),
        (Kubernetes("i", ("a:/data",), retries=-1), "--retries -1: must be at least 0"),
        (Kubernetes("i", ("a",)), "--volume a: write CLAIM:PATH, each claim once, such as training:/data"),
        (Kubernetes("i", ("a:data",)), "--volume a:data: write CLAIM:PATH"),
        (Kubernetes("i", ("A_b:/data",)), "--volume A_b:/data: write CLAIM:PATH"),
        (Kubernetes("i", ("a:/data", "a:/b")), "--volume a:/b: write CLAIM:PATH, each claim once"),
        (Kubernetes("i"), "/data/runs/a: in no volume of the pods; add --volume CLAIM:PATH, where PATH is a"),
        (Kubernetes("i", ("a:/data/runs/ab",)), "/data/runs/a: in no volume of the pods"),
    ],
)
def test_what_kubernetes_could_not_do_is_refused(cluster, message):
    with pytest.raises(UserError) as raised:
        cluster.check(WORK)
    assert str(raised.value).startswith(message)


def test_a_right_request_passes():
    Kubernetes("i", ("a:/data",), "team-a", cpus_per_node=1, save_seconds=1, retries=0).check(WORK)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        (("a:/data", "b:/data"), "--volume b:/data: a is mounted there already; give each claim its own path"),
        (("a:/data", "b://x/../data/"), "--volume b://x/../data/: a is mounted there already"),
        (
            ("a:/",),
            "--volume a:/: the pods need their own /etc/gpt2dist, which a mount at / would hide or",
        ),
        (("a:/dev/shm",), "the pods need their own /dev, which a mount at /dev/shm would hide or change"),
        (("a:/etc",), "the pods need their own /etc/gpt2dist, which a mount at /etc would hide or change"),
        (
            ("a:/etc/gpt2dist/x",),
            "the pods need their own /etc/gpt2dist, which a mount at /etc/gpt2dist/x would hide",
        ),
        (("a:/data/../dev",), "the pods need their own /dev, which a mount at /dev would hide"),
        (("a:/data:ro",), "--volume a:/data:ro: write CLAIM:PATH"),
    ],
)
def test_a_volume_that_would_hide_what_the_pods_need_is_refused(volumes, message):
    with pytest.raises(UserError) as raised:
        Kubernetes("image", volumes).check(WORK)
    assert message in str(raised.value)


def test_a_volume_inside_another_is_fine():
    Kubernetes("image", ("a:/data", "b:/data/runs/", "c:/etcetera")).check(WORK)


@pytest.mark.parametrize("image", [None, "", " "])
def test_a_blank_image_is_refused(image):
    with pytest.raises(UserError, match=r"^--container-image: missing; name the image that the pods run"):
        Kubernetes(image, ("a:/data",)).check(WORK)
