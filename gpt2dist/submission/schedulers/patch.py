"""Patches of a Kubernetes manifest, merged as Kubernetes' strategic merge does.

Maps merge, null deletes a key, and lists of named objects merge by their name. The items of other lists, such as
tolerations, are added to those that the manifest has.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gpt2dist.errors import UserError

KINDS = ("Job", "Service", "ConfigMap")
KEYS = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "imagePullSecrets", "env"), "name"),
    "volumeMounts": "mountPath",
}
"""Lists whose items merge → the key that identifies an item."""
CONTAINER = "gpt2dist"
"""Name of the container of the run."""
_POD = "spec.template.spec"
_RUN = f"{_POD}.containers[{CONTAINER}]"
_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance")
_IDENTITY = {
    "apiVersion": "submit writes this version",
    "metadata.name": "the job is named after its run or dataset",
    "metadata.namespace": "give --namespace",
    "metadata.labels": "the pods of the job are found by these labels; add others",
}
_TOGETHER = "all pods start, stop and are retried together; give --nodes and --retries"
_SCRIPT = "the pods run the script that submit writes; give --env or the arguments of the verb"
_GPUS = "give --gpus-per-node"
_VOLUME = "give --volume"
PROTECTED: Mapping[str, Mapping[str, str]] = {
    "ConfigMap": {
        **_IDENTITY,
        "data": "the pods run these files; add others",
        "immutable": "the files must not change",
    },
    "Service": {
        **_IDENTITY,
        **dict.fromkeys(
            ("spec.clusterIP", "spec.selector", "spec.publishNotReadyAddresses", "spec.type"),
            "the pods find each other by this Service",
        ),
    },
    "Job": {
        **_IDENTITY,
        "spec.template.metadata.labels": _IDENTITY["metadata.labels"],
        **{
            f"spec.{key}": _TOGETHER
            for key in (
                *("completionMode", "completions", "parallelism", "podFailurePolicy", "backoffLimitPerIndex"),
                *("maxFailedIndexes", "successPolicy", "podReplacementPolicy", "selector", "manualSelector"),
            )
        },
        "spec.backoffLimit": "give --retries",
        f"{_POD}.restartPolicy": "the Job replaces all pods, not one container; give --retries",
        f"{_POD}.terminationGracePeriodSeconds": "give --save-seconds",
        **dict.fromkeys(
            (f"{_POD}.subdomain", f"{_POD}.hostname", f"{_POD}.setHostnameAsFQDN"),
            "the pods find each other by their host names",
        ),
        f"{_RUN}.image": "give --container-image",
        f"{_RUN}.command": _SCRIPT,
        f"{_RUN}.args": _SCRIPT,
        f"{_RUN}.env[JOB_COMPLETION_INDEX]": "Kubernetes sets the number of the pod",
        f"{_RUN}.resources.limits.nvidia.com/gpu": _GPUS,
        f"{_RUN}.resources.requests.nvidia.com/gpu": _GPUS,
        f"{_RUN}.volumeMounts": _VOLUME,
        f"{_POD}.volumes": _VOLUME,
    },
}
"""Kind → path of what submit sets or relies on → what to do instead, or why."""
EXTENDABLE = (
    *("metadata.labels", "spec.template.metadata.labels", "data"),
    *(f"{_RUN}.volumeMounts", f"{_POD}.volumes"),
)
"""Those of the paths to which a patch may add items of its own."""
CHANGEABLE = f"{_POD}.volumes[shared-memory]"
"""The one item of ours that it may change: the size of /dev/shm."""
SCRIPTS = PurePosixPath("/etc/gpt2dist")
"""Directory of the pods with the script. A volume must not be mounted inside or above it."""


def read(file: Path) -> list[dict[str, Any]]:
    """Read the documents of a patch.

    Raises:
        UserError: The file cannot be read, is not YAML, or has a document that patches nothing.
    """
    from gpt2dist.config.yaml import parse_all

    try:
        documents = parse_all(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--patch {file}: cannot be read ({error.strerror}); name a YAML file") from error
    except ValueError as error:  # also UnicodeDecodeError
        raise UserError(f"--patch {file}: not valid YAML ({error}); correct it") from error
    found = [each for each in documents if each is not None]
    if not found:
        raise UserError(
            f"--patch {file}: is empty; write a document such as `kind: Job`, and what to change in it"
        )
    for each in found:
        kind = each.get("kind") if isinstance(each, dict) else None
        if kind not in KINDS:
            raise UserError(
                f"--patch {file}: kind {kind}: the manifest has none; begin each document with one of "
                + ", ".join(f"`kind: {name}`" for name in KINDS)
            )
    return found


def apply(manifest: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Return the documents of a manifest with a patch merged into them.

    Args:
        manifest: The documents, one of each kind.
        file: The patch: YAML documents, each with its `kind`.

    Raises:
        UserError: The patch cannot be read or merged, or changes what the run relies on.
    """
    patches = read(file)
    merged = []
    for document in manifest:
        result: Any = document
        try:
            for each in patches:
                if each["kind"] == document["kind"]:
                    result = merge(result, each)
            _require_intact(document, result)
        except ValueError as error:
            raise UserError(f"--patch {file}: {document['kind']} {error}") from None
        merged.append(result)
    return merged


def merge(base: Any, patch: Any, path: str = "") -> Any:
    """Return a value with a patch merged into it.

    Raises:
        ValueError: A map or list meets something else, an item lacks the key that identifies it, or a key is a
            directive such as $patch.
    """
    if isinstance(base, dict) or isinstance(patch, dict):
        return _merge_maps(base, patch, path)
    if isinstance(base, list) or isinstance(patch, list):
        return _merge_lists(base, patch, path)
    return patch


def _merge_maps(base: Any, patch: Any, path: str) -> dict[str, Any]:
    if not isinstance(patch, dict) or not isinstance(base, dict | None):
        raise ValueError(_misfit(base, path))
    result = dict(base or {})
    for key, value in patch.items():
        inner = f"{path}.{key}" if path else key
        if key.startswith("$"):
            raise ValueError(f"{inner}: directives are not supported; write null to delete a key")
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value, inner)
    return result


def _merge_lists(base: Any, patch: Any, path: str) -> list[Any]:
    if not isinstance(patch, list) or not isinstance(base, list | None):
        raise ValueError(_misfit(base, path))
    key = KEYS.get(path.rpartition(".")[2])
    if key is None:
        return [*(base or []), *patch]
    result = {each[key]: each for each in base or []}
    for each in patch:
        if not isinstance(each, dict) or not isinstance(each.get(key), str):
            raise ValueError(f"{path}: each item needs `{key}:`")
        name = each[key]
        result[name] = merge(result.get(name), each, f"{path}[{name}]")
    return list(result.values())


def _misfit(base: Any, path: str) -> str:
    """Return the message for a value that is of another kind than the one it is merged into."""
    kind = "a map" if isinstance(base, dict) else "a list" if isinstance(base, list) else "a single value"
    return f"{path}: must be {kind}"


def _require_intact(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that a merged document still has what the run relies on.

    Raises:
        ValueError: It has not; the message begins with the path.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    changed = [path for path in old | new if old.get(path) != new.get(path)]
    for place, instead in PROTECTED[before["kind"]].items():
        ours = {_item(place, path) for path in old if _is_in(path, place)}
        for path in changed:
            if not _is_in(path, place) or _is_in(path, CHANGEABLE):
                continue
            if place not in EXTENDABLE or _item(place, path) in ours:
                raise ValueError(f"{path}: submit sets or relies on it; omit it ({instead})")
    for path in changed:
        if _is_in(path, f"{_RUN}.volumeMounts") and path.endswith(".mountPath"):
            mount = PurePosixPath(new[path])
            if mount.is_relative_to(SCRIPTS) or SCRIPTS.is_relative_to(mount):
                raise ValueError(
                    f"{path}: {mount} would hide {SCRIPTS}, which has the script; mount it elsewhere"
                )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything in a document that is neither a map nor a list of named objects."""
    key = KEYS.get(path.rpartition(".")[2])
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and key:
        for each in value:
            yield from _leaves(each, f"{path}[{each[key]}]")
    else:
        yield path, value


def _is_in(path: str, place: str) -> bool:
    """Return whether a path is a place or inside it."""
    return path == place or path.startswith((f"{place}.", f"{place}["))


def _item(place: str, path: str) -> str:
    """Return the path of the item of a map or list at `place` that `path` belongs to."""
    inside = path[len(place) :]
    return place + inside.partition("]")[0] if inside.startswith("[") else path
