"""A hub of the tests: what the hub's client needs of it to make a repository, branches and commits, kept in memory."""

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")
ODD = {"html": b"<html>Please log in</html>", "odd": b"{}", "list": b"[1, 2]", "text": b'"hello"'}


@dataclass(kw_only=True)
class Hub:
    """Its branches, each with its files by path and its commit; the large files by hash; and what it was asked to do.

    `faults` has, by a part of the path of a request, what becomes of it: a status, `html` (a page instead of an answer), `odd` (JSON
    without what is asked for), `list` or `text` (JSON of another kind) or `reset` (the connection ends before the request was read).
    """

    url: str = ""
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    commits: dict[str, str] = field(default_factory=dict[str, str])
    large: dict[str, bytes] = field(default_factory=dict[str, bytes])
    asked: list[str] = field(default_factory=list[str])
    faults: dict[str, int | str] = field(default_factory=dict[str, "int | str"])
    pauses: list[tuple[str, int, dict[str, str]]] = field(default_factory=list[tuple[str, int, dict[str, str]]])
    """By a part of the path of a request the status and the headers that it gets, each once, as from a hub that asks for a pause."""
    private: bool = False
    """Whether only its owner sees the repository."""
    warns: str = ""
    """What the check of a card's metadata warns of."""

    def commit(self, branch: str, lines: list[dict[str, Any]]) -> str:
        """Applies the operations of a commit and returns its id."""
        files = self.branches[branch]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case _:
                    pass
        self.commits[branch] = hashlib.sha1(f"{len(self.asked)} {branch}".encode()).hexdigest()
        return self.commits[branch]


@contextmanager
def running_hub() -> Generator[Hub]:
    """A hub on a port of its own."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def _answer(self, method: str) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{method} {path}")
            fault = next((fault for part, fault in hub.faults.items() if part in path), None)
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pause = next((pause for pause in hub.pauses if pause[0] in path), None)
            headers: dict[str, str] = {}
            if pause is not None:
                hub.pauses.remove(pause)
                _, status, headers = pause
                data = json.dumps({"error": "too many requests"}).encode()
            elif isinstance(fault, int):
                status, data = fault, json.dumps({"error": "the disk is full"}).encode()
            elif fault:
                status, data = 200, ODD[fault]
            else:
                status, found = answer(hub, path, body)
                data = json.dumps(found).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status == 404 and fault is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "text/html" if fault == "html" else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(hub: Hub, path: str, body: bytes) -> tuple[int, Any]:
    """The status and the content of an answer."""
    last = path.rpartition("/")[2]
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": [{"message": hub.warns}] if hub.warns else []}
    if path == "/api/repos/create":
        return _create(hub, json.loads(body))
    if path.startswith("/lfs/"):
        hub.large[last] = body
        return 200, {}
    if path.endswith("/objects/batch"):
        return 200, {"objects": [_object(hub, found) for found in json.loads(body)["objects"]]}
    if any(f"/{kind}/" in path for kind in ("tree", "preupload", "commit")) and last not in hub.branches:
        return 404, {"error": f"there is no branch {last}"}
    if path.endswith("/refs"):
        names = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in hub.commits.items()]
        return 200, {"branches": names, "converts": [], "tags": []}
    if "/branch/" in path:
        hub.branches[last], hub.commits[last] = dict(hub.branches["main"]), hub.commits["main"]
        return 200, {}
    if "/tree/" in path:
        return 200, [{"type": "file", "path": name, "size": len(data), "oid": _git(data)} for name, data in hub.branches[last].items()]
    if "/preupload/" in path:
        return 200, {"files": [_mode(hub.branches[last], found["path"]) for found in json.loads(body)["files"]]}
    if "/commit/" in path:
        oid = hub.commit(last, [json.loads(line) for line in body.splitlines()])
        return 200, {"commitUrl": f"{hub.url}/me/rm/commit/{oid}", "commitOid": oid}
    if ("/revision/" in path or path == "/api/models/me/rm") and "main" in hub.branches:
        return 200, {"id": "me/rm", "sha": hub.commits.get(last, ""), "siblings": [], "tags": [], "private": hub.private}
    return 404, {"error": f"nothing at {path}"}


def _create(hub: Hub, asked: dict[str, Any]) -> tuple[int, Any]:
    repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
    if "main" in hub.branches:
        return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{repo}"}
    hub.private = asked.get("visibility") == "private"
    hub.branches["main"] = {".gitattributes": b"*.safetensors filter=lfs"}
    hub.commit("main", [])
    return 200, {"url": f"{hub.url}/{repo}", "id": repo}


def _object(hub: Hub, found: dict[str, Any]) -> dict[str, Any]:
    """What is to be done for a large file: nothing if it is there."""
    known = found["oid"] in hub.large
    return {**found, **({} if known else {"actions": {"upload": {"href": f"{hub.url}/lfs/{found['oid']}"}}})}


def _mode(files: dict[str, bytes], path: str) -> dict[str, Any]:
    data, is_large = files.get(path), path.endswith(LARGE)
    oid = None if data is None else hashlib.sha256(data).hexdigest() if is_large else _git(data)
    return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}


def _git(data: bytes) -> str:
    """The hash of a file's content in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
