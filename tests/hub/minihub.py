"""
A Hub in memory, spoken to over real HTTP: what huggingface_hub needs to push and pull, with commits, branches and LFS.

Point a fresh interpreter at it with `HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1`, set before huggingface_hub is imported.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png")
TOKEN = "hf_minihub"
ZERO = "0" * 40


@dataclass
class Repo:
    """Commits are whole snapshots, path -> content; branches are names of commits."""

    is_private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {ZERO: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": ZERO})
    messages: list[str] = field(default_factory=list)

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


class MiniHub:
    """
    Attributes:
        url: for `HF_ENDPOINT`.
        repos: by owner/name.
        requests: method and path of each request, in order.
        refusals: called with method and path; what it returns, unless `None`, is the status of the answer. The words
            "cut" and "lost" cut the connection before and after the request is carried out.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.refusals: Callable[[str, str], int | str | None] = lambda method, path: None
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Any) -> dict[str, str]:
        """Of an interpreter that talks to this Hub and to nothing else."""
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "HF_HOME": str(home),
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }


class _Refusal(Exception):
    def __init__(self, status: int, code: str):
        self.status, self.code = status, code


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if _is_lfs(path):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
    return entry


def _handler_of(hub: MiniHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer goes in one packet; in two, the second waits 40 ms for the first
        is_lost = False  # the answer

        def log_message(self, *args: Any) -> None:
            pass

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def answer(self, content: Any, status: int = 200, **headers: Any) -> None:
            if self.is_lost:
                return self.cut()
            is_raw = isinstance(content, bytes)
            body = content if is_raw else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if is_raw else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_request(self) -> None:
            url = urllib.parse.urlparse(self.path)
            path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append((self.command, path))
            try:
                fault = hub.refusals(self.command, path)
                if isinstance(fault, int):
                    raise _Refusal(fault, "Refused")
                if fault == "cut":
                    return self.cut()
                self.is_lost = fault == "lost"
                is_open = self.command in ("GET", "HEAD") or path.startswith("/_lfs/")
                if not is_open and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise _Refusal(401, "Unauthorized")
                for pattern, method in _ROUTES:
                    if match := re.fullmatch(pattern, path):
                        with hub.lock:
                            return method(self, *match.groups(), body=body, query=query)
                hub.unknown.append((self.command, path))
                raise _Refusal(404, "NotFound")
            except _Refusal as refusal:
                # a careless server repeats what it was sent
                words = f"{refusal.code}: {self.headers.get('Authorization')} will not do"
                self.answer({"error": words}, refusal.status, X_Error_Code=refusal.code)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

        def repo(self, name: str) -> Repo:
            if name not in hub.repos:
                raise _Refusal(404, "RepoNotFound")
            return hub.repos[name]

        def snapshot(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
            sha = self.repo(name).resolve(revision)
            if sha is None:
                raise _Refusal(404, "RevisionNotFound")
            return sha, hub.repos[name].commits[sha]

        # -------------------------------------------------------------- writing

        def whoami(self, **kwargs: Any) -> None:
            self.answer({"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

        def create(self, body: bytes, **kwargs: Any) -> None:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            status = 409 if name in hub.repos else 200
            is_private = bool(asked.get("private") or asked.get("visibility") == "private")
            hub.repos.setdefault(name, Repo(is_private))
            self.answer({"url": f"{hub.url}/{name}", "name": name, "id": name}, status)

        def validate(self, **kwargs: Any) -> None:
            self.answer({"errors": [], "warnings": []})

        def branch(self, name: str, branch: str, **kwargs: Any) -> None:
            repo = self.repo(name)
            if branch in repo.branches:
                raise _Refusal(409, "BranchExists")
            repo.branches[branch] = repo.branches["main"]
            self.answer({})

        def preupload(self, name: str, revision: str, body: bytes, **kwargs: Any) -> None:
            self.snapshot(name, revision)
            files = [
                {"path": f["path"], "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})

        def batch(self, name: str, body: bytes, **kwargs: Any) -> None:
            self.repo(name)
            objects: list[dict[str, Any]] = []
            for wanted in json.loads(body)["objects"]:
                entry = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in hub.blobs:
                    entry["actions"] = {"upload": {"href": f"{hub.url}/_lfs/{wanted['oid']}"}}
                objects.append(entry)
            self.answer({"transfer": "basic", "objects": objects})

        def upload(self, oid: str, body: bytes, **kwargs: Any) -> None:
            if hashlib.sha256(body).hexdigest() != oid:
                raise _Refusal(400, "BadHash")
            hub.blobs[oid] = body
            self.answer({})

        def commit(self, name: str, revision: str, body: bytes, **kwargs: Any) -> None:
            """All of it or nothing: the branch moves only when every operation has been applied."""
            sha, files = self.snapshot(name, revision)
            files, message = dict(files), ""
            for line in body.splitlines():
                operation = json.loads(line)
                key, value = operation["key"], operation["value"]
                if key == "header":
                    message = value["summary"]
                    if value.get("parentCommit", sha) != sha:
                        raise _Refusal(412, "ParentCommitMoved")
                elif key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    if value["oid"] not in hub.blobs:
                        raise _Refusal(400, "LfsObjectMissing")
                    files[value["path"]] = hub.blobs[value["oid"]]
                elif key == "deletedFile":
                    files.pop(value["path"], None)
                else:
                    raise _Refusal(400, f"UnknownOperation {key}")
            repo, new = hub.repos[name], hashlib.sha1(sha.encode() + body).hexdigest()
            repo.commits[new], repo.branches[revision] = files, new
            repo.messages.append(message)
            self.answer({"commitUrl": f"{hub.url}/{name}/commit/{new}", "commitOid": new})

        # -------------------------------------------------------------- reading

        def info(self, name: str, revision: str | None = None, **kwargs: Any) -> None:
            sha, files = self.snapshot(name, revision or "main")
            siblings = [{"rfilename": path} for path in sorted(files)]
            facts = {"_id": "x", "id": name, "modelId": name, "sha": sha, "siblings": siblings, "tags": []}
            facts |= {"private": hub.repos[name].is_private, "disabled": False, "gated": False}
            self.answer({**facts, "downloads": 0, "likes": 0})

        def refs(self, name: str, **kwargs: Any) -> None:
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
                for branch, sha in self.repo(name).branches.items()
            ]
            self.answer({"branches": branches, "converts": [], "tags": []})

        def tree(self, name: str, revision: str, folder: str | None, query: dict, **kwargs: Any) -> None:
            _, files = self.snapshot(name, revision)
            prefix = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
            below = {path: content for path, content in files.items() if path.startswith(prefix)}
            if prefix and not below:
                raise _Refusal(404, "EntryNotFound")
            entries = []
            if query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
                folders = {path[len(prefix) :].split("/")[0] for path in below if "/" in path[len(prefix) :]}
                entries = [{"type": "directory", "path": prefix + f, "size": 0, "oid": ZERO} for f in sorted(folders)]
                below = {path: content for path, content in below.items() if "/" not in path[len(prefix) :]}
            self.answer(entries + [_entry(path, content) for path, content in sorted(below.items())])

        def paths_info(self, name: str, revision: str, body: bytes, **kwargs: Any) -> None:
            _, files = self.snapshot(name, revision)
            asked = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())
            wanted = asked.get("paths", [])
            wanted = [wanted] if isinstance(wanted, str) else wanted
            self.answer([_entry(path, files[path]) for path in wanted if path in files])

        def file(self, name: str, revision: str, path: str, **kwargs: Any) -> None:
            sha, files = self.snapshot(name, revision)
            if path not in files:
                self.answer({"error": "EntryNotFound"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
                return
            content = files[path]
            tag = hashlib.sha256(content).hexdigest() if _is_lfs(path) else _blob_id(content)
            headers = {"X_Repo_Commit": sha, "ETag": f'"{tag}"', "Accept_Ranges": "bytes"}
            if _is_lfs(path):
                headers |= {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(content))}
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and self.command == "GET":
                first, last = int(asked[1]), int(asked[2] or len(content) - 1)
                headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
                self.answer(content[first : last + 1], 206, **headers)
            else:
                self.answer(content, **headers)

    name = r"([\w.-]+/[\w.-]+)"
    revision = r"(refs/pr/\d+|[^/]+)"
    _ROUTES: list[tuple[str, Callable[..., None]]] = [
        (r"/api/whoami-v2", Handler.whoami),
        (r"/api/repos/create", Handler.create),
        (r"/api/validate-yaml", Handler.validate),
        (rf"/api/models/{name}/branch/(.+)", Handler.branch),
        (rf"/api/models/{name}/preupload/{revision}", Handler.preupload),
        (rf"/api/models/{name}/commit/{revision}", Handler.commit),
        (rf"/api/models/{name}/refs", Handler.refs),
        (rf"/api/models/{name}/tree/{revision}(/.*)?", Handler.tree),
        (rf"/api/models/{name}/paths-info/{revision}", Handler.paths_info),
        (rf"/api/models/{name}(?:/revision/{revision})?", Handler.info),
        (rf"/{name}\.git/info/lfs/objects/batch", Handler.batch),
        (r"/_lfs/([0-9a-f]{64})", Handler.upload),
        (rf"/{name}/resolve/{revision}/(.+)", Handler.file),
    ]
    return Handler
