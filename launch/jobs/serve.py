"""A report on this machine's own address that follows running jobs: it reads what they write and writes nothing itself."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import xxhash

from core.hooks.hook import measured_steps, read_evaluations
from core.runs.lock import is_held
from core.runs.record import LOCK, RECORD, RunStatus, read_records
from evalhooks.report import page_of
from evalhooks.report.summary import summarize
from launch.history.find import status_of
from launch.jobs.report import add_findings
from launch.schema import ReportJob

HOST = "127.0.0.1"


@dataclass(kw_only=True)
class Pages:
    """The page of the runs in `folder` as they are now, made anew only when a record or a measurement has changed."""

    folder: Path
    version: str = ""
    page: bytes = b""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self) -> tuple[str, bytes]:
        """Its version and the page."""
        with self.lock:
            version = version_of(self.folder)
            if version != self.version:
                self.page = page_of(live_summary(self.folder), version=version).encode()
                self.version = version
            return self.version, self.page


def version_of(folder: Path) -> str:
    """What the records and measurements of a study's runs are identified by: names, sizes and times of change, and which are worked on.

    A run that is killed leaves its record as it was.
    """
    files = [*folder.glob(f"*/{RECORD}"), *folder.glob("*/evals/step-*.json")]
    found = sorted((str(file), status.st_mtime_ns, status.st_size) for file in files for status in [file.stat()])
    held = sorted(str(file) for file in folder.glob(f"*/{LOCK}") if is_held(file))
    return f'"{xxhash.xxh3_64_hexdigest(repr((found, held)).encode())}"'


def live_summary(folder: Path) -> dict[str, Any]:
    """The summary of a study's runs with at least one measurement, those that still train as of their newest one."""
    records: list[Mapping[str, Any]] = []
    notes: list[str] = []
    for record in read_records(folder, "*", notes.append):
        place = Path(record["dir"])
        if ".old-" in place.name or record["job"] not in ("rm", "ppo", "bench", "bon"):
            continue
        steps = measured_steps(place)
        if record["status"] == RunStatus.finished:
            records.append(record)
        elif found := read_evaluations(place, steps[-1:], skip=notes.append):
            step, metrics = found.popitem()
            records.append({**record, "final": metrics, "step": step, "status": status_of(record)})
            if record["job"] == "rm":
                notes.append(f"{place.name} is not finished ({status_of(record)}): its scores are those of step {step}.")
        else:
            notes.append(f"{place.name} has no measurement yet ({status_of(record)}).")
    policies = [record["lineage"]["base"] for record in records if record["job"] == "ppo"]
    wall_s = sum(float(record.get("wall_s") or 0.0) for record in records)
    lineage = policies[0] if policies else ""
    summary = summarize(study=folder.name, wall_s=wall_s, records=records, pools=None, policy_lineage=lineage, notes=notes)
    add_findings(summary, ReportJob())
    return summary


def server_of(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the report of the runs in `folder`, on this machine's own address alone; port 0 is any free one.

    It knows two addresses, `/` and `/update`, reads no file by a name from a request, and answers only to its own host names, so that no
    other page in the browser can read it. Raises `ValueError` if the port is taken.
    """
    pages = Pages(folder=folder)
    hosts: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") not in hosts:
                self._answer(HTTPStatus.FORBIDDEN, b"unknown host")
            elif self.path not in ("/", "/update"):
                self._answer(HTTPStatus.NOT_FOUND, b"there is / and nothing else")
            else:
                self._send_page()

        def _send_page(self) -> None:
            try:
                version, page = pages.newest()
            except (OSError, ValueError) as error:  # a file that is being moved or was damaged; the next request tries again
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode())
                return
            if self.path == "/update" and self.headers.get("If-None-Match") == version:
                self._answer(HTTPStatus.NOT_MODIFIED, b"", ETag=version)
            else:
                self._answer(HTTPStatus.OK, page, **{"ETag": version, "Content-Type": "text/html; charset=utf-8"})

        def _answer(self, status: HTTPStatus, body: bytes, **headers: str) -> None:
            self.send_response(status)
            sent = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store", **headers}
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal is for what the user should see."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ValueError(f"port={port} cannot be used ({error.strerror}); choose another one, or port=0 for any that is free.") from None
    server.daemon_threads = True
    hosts |= {f"{name}:{server.server_address[1]}" for name in (HOST, "localhost")}
    return server


def serve(folder: Path, port: int, say: Callable[[str], None] = print) -> None:
    """Serves until the process is stopped."""
    with server_of(folder, port) as server:
        say(f"http://{HOST}:{server.server_address[1]}/ follows the runs in {folder}; Ctrl-C ends it and leaves them alone")
        server.serve_forever()
