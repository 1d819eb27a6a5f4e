"""Patches of the manifest: merged as Kubernetes does it, and kept away from what the run relies on."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from gpt2dist.errors import UserError
from gpt2dist.submission.schedulers import patch
from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.unit.submission.schedulers.test_kubernetes import CLUSTER, JOB, documents

POD = "spec.template.spec"
RUN = f"{POD}.containers[gpt2dist]"


def patched(tmp_path: Path, text: str) -> dict[str, dict]:
    """The objects of the manifest with a patch, each checked by Kubernetes' schema."""
    file = tmp_path / "patch.yaml"
    file.write_text(text)
    return documents(JOB, dataclasses.replace(CLUSTER, patch=str(file)))


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"a": 1, "b": 2}, {"b": None, "c": None}, {"a": 1}),
        ({"a": 1}, {"a": "x"}, {"a": "x"}),
        ({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        (
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "b"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
        ),
        (
            {"containers": [{"name": "a", "image": "i"}]},
            {"containers": [{"name": "b"}, {"name": "a", "tty": True}]},
            {"containers": [{"name": "a", "image": "i", "tty": True}, {"name": "b"}]},
        ),
        (
            {"volumeMounts": [{"mountPath": "/a", "name": "x"}]},
            {"volumeMounts": [{"mountPath": "/a", "name": "y"}, {"mountPath": "/b", "name": "x"}]},
            {"volumeMounts": [{"mountPath": "/a", "name": "y"}, {"mountPath": "/b", "name": "x"}]},
        ),
        (
            {},
            {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
            {"env": [{"name": "A", "value": "2"}]},
        ),
    ],
)
def test_maps_merge_null_deletes_and_named_items_merge_by_name(base, change, expected):
    before = yaml.safe_dump(base)
    assert patch.merge(base, change) == expected
    assert yaml.safe_dump(base) == before


def test_the_example_of_the_guide_is_applied(tmp_path):
    guide = (REPOSITORY / "docs/guides/cluster.md").read_text(encoding="utf-8")
    (example,) = blocks(guide, "yaml")
    found = patched(tmp_path, example)
    job, before = found["Job"], documents(JOB)["Job"]
    assert job["metadata"]["labels"] == {**before["metadata"]["labels"], "kueue.x-k8s.io/queue-name": "gpus"}
    assert job["spec"]["suspend"] is True
    pod, (container,) = job["spec"]["template"]["spec"], job["spec"]["template"]["spec"]["containers"]
    assert pod["nodeSelector"] and pod["tolerations"] and pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "memory": "800Gi"}
    assert container["volumeMounts"] == before["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    assert {kind: each for kind, each in found.items() if kind != "Job"} == {
        kind: each for kind, each in documents(JOB).items() if kind != "Job"
    }


def test_all_kinds_and_several_documents_of_one(tmp_path):
    found = patched(
        tmp_path,
        "kind: Job\nspec: {suspend: true}\n---\nkind: Job\nspec: {ttlSecondsAfterFinished: 60}\n---\n---\n"
        "kind: Service\nmetadata: {annotations: {a: b}}\n---\nkind: ConfigMap\ndata: {nccl.conf: x}\n",
    )
    assert found["Job"]["spec"]["suspend"] is True and found["Job"]["spec"]["ttlSecondsAfterFinished"] == 60
    assert found["Service"]["metadata"]["annotations"] == {"a": "b"}
    assert found["ConfigMap"]["data"].keys() == {"job.sh", "nccl.conf"}


def test_volumes_variables_and_containers_may_be_added(tmp_path):
    pod = """
kind: Job
spec:
  template:
    spec:
      containers:
      - name: gpt2dist
        env: [{name: A, value: b}]
        volumeMounts: [{name: fast, mountPath: /dev/infiniband}]
      initContainers: [{name: warm, image: busybox}]
      volumes: [{name: fast, hostPath: {path: /dev/infiniband}}]
"""
    spec = patched(tmp_path, pod)["Job"]["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["volumes"]] == ["record", "shared-memory", "claim-0", "fast"]
    assert spec["containers"][0]["env"] == [{"name": "A", "value": "b"}]


def nested(path: str, value: object) -> dict:
    """The Job patch that sets the value at a path, whose items are written as key=value."""
    inner = value
    for part in reversed(path.split("/")):
        name, _, item = part.partition("@")
        if item:
            key, _, known = item.partition("=")
            inner = [{key: known, **inner}]
        inner = {name: inner}
    return inner


CONTAINER = "spec/template/spec/containers@name=gpt2dist"


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        (
            "Job",
            "apiVersion",
            "v2",
            "apiVersion: submit sets or relies on it; omit it (submit writes this version)",
        ),
        (
            "Job",
            "metadata/name",
            "x",
            "metadata.name: submit sets or relies on it; omit it (the job is named after",
        ),
        (
            "Service",
            "metadata/namespace",
            "x",
            "metadata.namespace: submit sets or relies on it; omit it (give --name",
        ),
        (
            "Job",
            "metadata/labels/app.kubernetes.io~name",
            "x",
            "metadata.labels.app.kubernetes.io/name: submit sets",
        ),
        ("Job", "metadata/labels", None, "metadata.labels.app.kubernetes.io/name: submit sets or relies on it"),
        (
            "Job",
            "spec/completions",
            3,
            "spec.completions: submit sets or relies on it; omit it (all pods start, stop",
        ),
        ("Job", "spec/parallelism", 1, "spec.parallelism: submit sets"),
        ("Job", "spec/completionMode", "NonIndexed", "spec.completionMode: submit sets"),
        (
            "Job",
            "spec/backoffLimit",
            1,
            "spec.backoffLimit: submit sets or relies on it; omit it (give --retries)",
        ),
        ("Job", "spec/backoffLimitPerIndex", 1, "spec.backoffLimitPerIndex: submit sets"),
        ("Job", "spec/podFailurePolicy", None, "spec.podFailurePolicy.rules: submit sets"),
        ("Job", "spec/podFailurePolicy/rules", [{"action": "Count"}], "spec.podFailurePolicy.rules: submit sets"),
        ("Job", "spec/template/spec/restartPolicy", "OnFailure", f"{POD}.restartPolicy: submit sets"),
        ("Job", "spec/template/spec/subdomain", "x", f"{POD}.subdomain: submit sets"),
        ("Job", "spec/template/spec/hostname", "x", f"{POD}.hostname: submit sets"),
        (
            "Job",
            "spec/template/spec/terminationGracePeriodSeconds",
            5,
            f"{POD}.terminationGracePeriodSeconds: submit sets or relies on it; omit it (give --save-seconds)",
        ),
        (
            "Job",
            f"{CONTAINER}/image",
            "x",
            f"{RUN}.image: submit sets or relies on it; omit it (give --container-image)",
        ),
        (
            "Job",
            f"{CONTAINER}/command",
            ["x"],
            f"{RUN}.command: submit sets or relies on it; omit it (the pods run",
        ),
        ("Job", f"{CONTAINER}/args", ["x"], f"{RUN}.args: submit sets"),
        (
            "Job",
            f"{CONTAINER}/resources/limits/nvidia.com~gpu",
            "4",
            f"{RUN}.resources.limits.nvidia.com/gpu: submit",
        ),
        ("Job", f"{CONTAINER}/resources/limits", None, f"{RUN}.resources.limits.nvidia.com/gpu: submit"),
        (
            "Job",
            f"{CONTAINER}/env@name=JOB_COMPLETION_INDEX/value",
            "0",
            f"{RUN}.env[JOB_COMPLETION_INDEX].name: submit",
        ),
        (
            "Job",
            f"{CONTAINER}/volumeMounts@mountPath=~data/name",
            "x",
            f"{RUN}.volumeMounts[/data].name: submit sets or relies on it; omit it (give --volume)",
        ),
        (
            "Job",
            f"{CONTAINER}/volumeMounts@mountPath=~data/readOnly",
            True,
            f"{RUN}.volumeMounts[/data].readOnly: sub",
        ),
        (
            "Job",
            f"{CONTAINER}/volumeMounts@mountPath=~etc/name",
            "x",
            "/etc would hide /etc/gpt2dist, which has the",
        ),
        (
            "Job",
            "spec/template/spec/volumes@name=claim-0/emptyDir",
            {},
            f"{POD}.volumes[claim-0].emptyDir: submit",
        ),
        (
            "ConfigMap",
            "data/job.sh",
            "x",
            "data.job.sh: submit sets or relies on it; omit it (the pods run these",
        ),
        ("Service", "spec/clusterIP", "10.0.0.1", "spec.clusterIP: submit sets"),
        ("Job", "spec", [], "spec: must be a map"),
        ("Job", "spec/completions", {"a": 1}, "spec.completions: must be a single value"),
        ("Job", "spec/template/spec/containers", {"name": "gpt2dist"}, f"{POD}.containers: must be a list"),
        ("Job", "spec/template/spec/containers", [{"image": "x"}], f"{POD}.containers: each item needs `name:`"),
        ("Job", "spec/template/spec/tolerations", [1], None),
        (
            "Job",
            "spec/template/$patch",
            "replace",
            "spec.template.$patch: directives are not supported; write null",
        ),
    ],
)
def test_what_the_run_relies_on_cannot_be_changed(tmp_path, kind, place, value, message):
    change = {"kind": kind, **nested(place, value)}
    text = yaml.safe_dump(change).replace("~", "/")
    file = tmp_path / "patch.yaml"
    file.write_text(text)
    cluster = dataclasses.replace(CLUSTER, patch=str(file), namespace="lab")
    if message is None:  # Kubernetes itself tells what is wrong there
        cluster.check_resources(JOB)
        return
    with pytest.raises(UserError) as raised:
        cluster.check_resources(JOB)
    told = str(raised.value)
    assert told.startswith(f"--patch {file}: {kind} ") and message in told


def test_the_same_value_is_no_change(tmp_path):
    patched(tmp_path, "apiVersion: batch/v1\nkind: Job\nspec: {completions: 2, completionMode: Indexed}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); name a YAML file"),
        (b"", "is empty; write a document such as `kind: Job`, and what to change in it"),
        (b"---\n---\n", "is empty; write"),
        (b"kind: Job\nspec: [", "not valid YAML (line 2: "),
        (b"kind: Job\nkind: Job\n", "not valid YAML (line 2: the key 'kind' is given twice); correct it"),
        (b"kind: \xff", "not valid YAML ("),
        (
            b"kind: Pod",
            "kind Pod: the manifest has none; begin each document with one of `kind: Job`, `kind: Service`",
        ),
        (b"spec: {}", "kind None: the manifest has none"),
        (b"- kind: Job", "kind None: the manifest has none"),
        (b"kind: [Job]", "kind ['Job']: the manifest has none"),
    ],
)
def test_a_file_that_is_no_patch_is_refused(tmp_path, content, message):
    file = tmp_path / "patch.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        dataclasses.replace(CLUSTER, patch=str(file)).check_resources(JOB)
    assert str(raised.value).startswith(f"--patch {file}: {message}")
