"""A stand-in for the Hub on loopback, with the requests that `huggingface_hub` makes to push and to read a model.

It keeps what is committed, checks tokens, metadata and SHA sums as the Hub does, and can drop connections.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

import yaml

WRITER, READER, STRANGER = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "x" * 34
_USER = "alice"
_LARGE = (".safetensors", ".bin", ".pt", ".png")
_REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)"
_MODEL_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "", **content: Any) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"error": message, **content}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


@dataclass
class File:
    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """The Git object id, or the SHA-256 of a large file."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Commit:
    message: str
    files: dict[str, File]

    @property
    def oid(self) -> str:
        """A hash of the tree and the message."""
        tree = {path: file.oid for path, file in sorted(self.files.items())}
        return hashlib.sha1(json.dumps([self.message, tree]).encode()).hexdigest()


@dataclass
class Repository:
    private: bool = False
    commits: list[Commit] = field(default_factory=lambda: [Commit("initial commit", {})])


class Hub:
    """The server; start it with `serving()`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._faults: list[tuple[re.Pattern[str], int]] = []
        self.connections: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """The value for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self._port}"

    def files(self, repo: str) -> dict[str, bytes]:
        """The files of a repository."""
        return {path: file.content for path, file in sorted(self.repositories[repo].commits[-1].files.items())}

    def messages(self, repo: str) -> list[str]:
        """The messages of its commits, without the first."""
        return [commit.message for commit in self.repositories[repo].commits[1:]]

    def count(self, pattern: str) -> int:
        """How many requests there were that match, as `METHOD /path`."""
        return sum(bool(re.match(pattern, request)) for request in self.requests)

    def drop(self, pattern: str, times: int = 1) -> None:
        """Drop the connection, in the middle of the body, of the next requests that match."""
        self._faults.append((re.compile(pattern), times))

    def must_drop(self, request: str) -> bool:
        for i, (pattern, times) in enumerate(self._faults):
            if times and pattern.match(request):
                self._faults[i] = (pattern, times - 1)
                return True
        return False

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Listen, on the port of the time before if there was one."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Be unreachable."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        while self.connections:
            with suppress(OSError):
                self.connections.pop().shutdown(socket.SHUT_RDWR)

    # ---- What it answers ----

    def create(self, token: str | None, body: dict[str, Any]) -> dict[str, Any]:
        self._check(token, write=True)
        repo = f"{body.get('organization') or _USER}/{body['name']}"
        url = f"{self.endpoint}/{repo}"
        if repo in self.repositories:
            raise Refused(409, "You already created this model repo", url=url)
        private = body.get("private") or body.get("visibility") == "private"
        self.repositories[repo] = Repository(private=bool(private))
        return {"url": url, "name": repo, "private": bool(private)}

    def validate_yaml(self, token: str | None, body: dict[str, Any]) -> dict[str, Any]:
        errors = _metadata_errors(body["content"])
        if errors:
            raise Refused(400, "Bad metadata", errors=errors)
        return {"errors": [], "warnings": []}

    def may_write(self, token: str | None, body: Any, repo: str) -> dict[str, Any]:
        self._check(token, write=True)
        self._repository(token, repo)
        return {}

    def preupload(self, token: str | None, body: dict[str, Any], repo: str, revision: str) -> dict[str, Any]:
        self._check(token, write=True)
        present = self._repository(token, repo).commits[-1].files
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    **({"oid": present[file["path"]].oid} if file["path"] in present else {}),
                }
                for file in body["files"]
            ]
        }

    def batch(self, token: str | None, body: dict[str, Any], repo: str) -> dict[str, Any]:
        self._check(token, write=True)
        objects: list[dict[str, Any]] = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in body["objects"]]
        for wanted in objects:
            if wanted["oid"] not in self.objects:
                wanted["actions"] = {"upload": {"href": f"{self.endpoint}/storage/{wanted['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def store(self, token: str | None, body: bytes, oid: str) -> dict[str, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "The content does not have the SHA-256 of its name")
        self.objects[oid] = body
        return {}

    def commit(self, token: str | None, body: list[dict[str, Any]], repo: str, revision: str) -> dict[str, Any]:
        self._check(token, write=True)
        repository = self._repository(token, repo)
        header, *operations = [(line["key"], line["value"]) for line in body]
        files = dict(repository.commits[-1].files)
        for key, value in operations:
            if key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refused(400, f"The LFS object of {value['path']} was not uploaded")
                files[value["path"]] = File(self.objects[value["oid"]], large=True)
            else:
                raise Refused(400, f"Unknown operation {key}")
        secret = [path for path, file in files.items() if re.search(rb"hf_[a-zA-Z]{34}", file.content)]
        if secret:
            raise Refused(400, f"Your files contain valid Hugging Face secrets: {', '.join(secret)}")
        errors = _metadata_errors(files["README.md"].content.decode()) if "README.md" in files else []
        if errors:
            raise Refused(400, errors[0]["message"])
        repository.commits.append(Commit(header[1]["summary"], files))
        oid = repository.commits[-1].oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.endpoint}/{repo}/commit/{oid}"}

    def info(self, token: str | None, body: Any, repo: str, revision: str = "main") -> dict[str, Any]:
        repository = self._repository(token, repo)
        names = [{"rfilename": path} for path in repository.commits[-1].files]
        oid = repository.commits[-1].oid
        return {"id": repo, "sha": oid, "private": repository.private, "siblings": names, "tags": []}

    def tree(self, token: str | None, body: Any, repo: str, revision: str) -> list[dict[str, Any]]:
        files = self._repository(token, repo).commits[-1].files
        return [
            {
                "type": "file",
                "path": path,
                "oid": file.oid,
                "size": len(file.content),
                **({"lfs": {"oid": file.oid, "size": len(file.content), "pointerSize": 134}} if file.large else {}),
            }
            for path, file in files.items()
        ]

    def resolve(
        self, token: str | None, body: Any, repo: str, revision: str, path: str
    ) -> tuple[bytes, dict[str, str]]:
        commit = self._repository(token, repo).commits[-1]
        if path not in commit.files:
            raise Refused(404, "Entry not found", code="EntryNotFound")
        file = commit.files[path]
        return file.content, {
            "ETag": f'"{file.oid}"',
            "X-Repo-Commit": commit.oid,
            "X-Linked-Size": str(len(file.content)),
        }

    def _check(self, token: str | None, write: bool = False) -> None:
        if token not in (WRITER, READER):
            raise Refused(401, "Invalid credentials in Authorization header")
        if write and token != WRITER:
            raise Refused(403, "You don't have the rights to write with this token")

    def _repository(self, token: str | None, repo: str) -> Repository:
        if token is not None:
            self._check(token)
        if repo not in self.repositories or (self.repositories[repo].private and token is None):
            raise Refused(404, "Repository not found", code="RepoNotFound")
        return self.repositories[repo]


def _metadata_errors(card: str) -> list[dict[str, str]]:
    """What the Hub says of ids in the metadata of a card that are none; paths of directories, for example."""
    metadata = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else {}
    named = {"base_model": metadata.get("base_model"), "datasets[0]": (metadata.get("datasets") or [None])[0]}
    return [
        {"message": f'"{key}" with value "{value}" is not valid. Use an id from https://hf.co.'}
        for key, value in named.items()
        if value is not None and not _MODEL_ID.fullmatch(value)
    ]


_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("POST", "/api/repos/create", Hub.create),
    ("POST", "/api/validate-yaml", Hub.validate_yaml),
    ("GET", f"/api/models/{_REPOSITORY}/auth-check/write", Hub.may_write),
    ("POST", f"/api/models/{_REPOSITORY}/preupload/(?P<revision>[^/]+)", Hub.preupload),
    ("POST", f"/{_REPOSITORY}.git/info/lfs/objects/batch", Hub.batch),
    ("PUT", r"/storage/(?P<oid>\w+)", Hub.store),
    ("POST", f"/api/models/{_REPOSITORY}/commit/(?P<revision>[^/]+)", Hub.commit),
    ("GET", f"/api/models/{_REPOSITORY}", Hub.info),
    ("GET", f"/api/models/{_REPOSITORY}/revision/(?P<revision>[^/]+)", Hub.info),
    ("GET", f"/api/models/{_REPOSITORY}/tree/(?P<revision>[^/]+)", Hub.tree),
    ("GET", f"/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Hub.resolve),
]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def _handle(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if self.hub.must_drop(self.hub.requests[-1]):
            self.rfile.read(length // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        try:
            self._answer(*self._result(path, token, body))
        except Refused as refused:
            self._answer(json.dumps(refused.content).encode(), refused.headers, refused.status)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _result(self, path: str, token: str | None, body: bytes) -> tuple[bytes, dict[str, str]]:
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and wanted == method:
                result = answer(self.hub, token, self._parsed(body), **found.groupdict())
                return result if isinstance(result, tuple) else (json.dumps(result).encode(), {})
        raise Refused(404, f"{self.command} {path} is not a request that this stand-in knows")

    def _parsed(self, body: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if "ndjson" in kind:
            return [json.loads(line) for line in body.splitlines()]
        return json.loads(body) if "json" in kind and body else body

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; `Hub.requests` has it all."""
