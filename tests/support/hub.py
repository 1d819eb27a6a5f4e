"""A stand-in for the Hugging Face hub: its HTTP endpoints for models, in memory."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_writes"


@dataclass
class Repository:
    """A model repository: its commits by hash, and the commit of each branch and tag."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Replace the files of a branch, and return the commit."""
        content = json.dumps([len(self.commits), {name: hash(data) for name, data in files.items()}])
        self.refs[branch] = hashlib.sha1(content.encode()).hexdigest()
        self.commits[self.refs[branch]] = files
        return self.refs[branch]

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit."""
        commit = self.refs.get(revision, revision)
        return commit if commit in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.refs["main"]]


@dataclass
class Hub:
    """The state of the stand-in.

    Attributes:
        repositories: By name.
        requests: Method and path of each request.
        fails: Start of a path → status with which it answers.
    """

    user: str = "me"
    organizations: tuple[str, ...] = ("lab",)
    role: str = "write"
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as its client asks it."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        """Send a response."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        """Send an error that the client knows by its code."""
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=f"{code}.")

    def handle_any(self) -> None:
        """Find the endpoint by the path."""
        path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        for start, status in self.hub.fails.items():
            if path.startswith(start):
                return self.answer(status, {"error": "as the test wants it"})
        for pattern, method in ENDPOINTS:
            if found := re.fullmatch(pattern, path):
                return method(self, *(unquote(part) if part else part for part in found.groups()))
        return self.refuse(404, "Unknown")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    @property
    def is_member(self) -> bool:
        """Whether the request has the token."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def whoami(self) -> None:
        if not self.is_member:
            return self.answer(401, {"error": "Invalid credentials"})
        organizations = [{"name": name} for name in self.hub.organizations]
        access = {"accessToken": {"role": self.hub.role}}
        return self.answer(200, {"name": self.hub.user, "orgs": organizations, "auth": access})

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        if name in self.hub.repositories:
            return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit({".gitattributes": b""})
        return self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        wrong = "license: nonsense" in content
        errors = [{"message": '"license" must be one of [mit, …]'}] if wrong else []
        self.answer(400 if wrong else 200, {"errors": errors, "warnings": []})

    def find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """Return a repository and a commit, or answer that one is missing."""
        repository = self.hub.repositories.get(name)
        if not repository or (repository.private and not self.is_member):
            self.refuse(404 if self.is_member else 401, "RepoNotFound")
            return None
        commit = repository.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return repository, commit

    def info(self, name: str, revision: str | None) -> None:
        if found := self.find(name, revision or "main"):
            repository, commit = found
            names = [{"rfilename": path} for path in repository.commits[commit]]
            self.answer(200, {"id": name, "sha": commit, "private": repository.private, "siblings": names})

    def tree(self, name: str, revision: str) -> None:
        if found := self.find(name, revision):
            repository, commit = found
            files = repository.commits[commit].items()
            self.answer(
                200,
                [{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files],
            )

    def preupload(self, name: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for each in files
        ]
        self.answer(200, {"files": modes})

    def batch(self, name: str) -> None:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            for each in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.uploads[oid] = self.body
        self.answer(200)

    def commit(self, name: str, revision: str) -> None:
        if not (found := self.find(name, revision)):
            return
        repository, head = found
        files = dict(repository.commits[head])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, revision)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not (found := self.find(name, revision)):
            return
        repository, commit = found
        data = repository.commits[commit].get(path)
        if data is None:
            return self.refuse(404, "EntryNotFound")
        return self.answer(200, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=commit)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


NAME = r"/api/models/([^/]+(?:/(?!revision|tree|preupload|commit)[^/]+)?)"
ENDPOINTS = (
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"{NAME}/tree/([^/]+)", Handler.tree),
    (rf"{NAME}/preupload/([^/]+)", Handler.preupload),
    (rf"{NAME}/commit/([^/]+)", Handler.commit),
    (rf"{NAME}(?:/revision/([^/]+))?", Handler.info),
    (r"/(.+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/(\w+)", Handler.put),
    (r"/(.+)/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the stand-in at a free port of this host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def use(hub: Hub, cache: Any, patch: pytest.MonkeyPatch) -> None:
    """Let the client of this process ask the stand-in. Its settings were read when it was imported."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "no-tokens"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def files_of(directory: Any) -> dict[str, bytes]:
    """The files of a directory, as a repository has them."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
