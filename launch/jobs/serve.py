"""A report on this machine's own address that follows running jobs: it reads what they write and writes nothing itself."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import xxhash

from core.hooks.hook import measured_steps, read_evaluations
from core.process.signals import Preempted
from core.runs.lock import is_held
from core.runs.record import LOCK, RECORD, RunStatus, read_records, value_at
from core.text import shown
from evalhooks.measured_rows import kept_sizes
from evalhooks.report import page_of, without_scripts
from evalhooks.report.summary import summarize
from launch.history.find import near_studies, status_of
from launch.jobs.report import add_findings
from launch.schema import ReportJob

HOST = "127.0.0.1"


_OWN_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""Hosts of requests that are answered: names of this machine, with any port, since a tunnel has one of its own."""
_SOON_S, _PAUSE = 0.5, 3.0
"""A page that took longer to make than the first, in seconds, is made again only after a pause of so many times that: the runs that it
follows need the processor more."""
_NICE = 10
"""By how much the server steps back behind the jobs that it follows."""


def _made(folder: Path, version: str) -> str:
    return page_of(live_summary(folder), version=version)


@dataclass(kw_only=True)
class Pages:
    """The page of the runs in `folder` as they are now, made anew only when a record or a measurement has changed, and with pauses."""

    folder: Path
    make: Callable[[Path, str], str] = _made
    version: str = ""
    page: bytes = b""
    update: bytes = b""
    """The page without its scripts, most of it, which the script of a page that is open has no use for."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    due: float = 0.0
    """When the page may be made again, on the clock of `time.monotonic`."""

    def newest(self) -> str:
        """The version of the page, which `page` and `update` then are of."""
        with self.lock:
            if self.version and time.monotonic() < self.due:
                return self.version
            version = version_of(self.folder)
            if version != self.version:
                started = time.monotonic()
                page = self.make(self.folder, version)
                self.version, self.page, self.update = version, page.encode(), without_scripts(page).encode()
                ended = time.monotonic()
                self.due = ended + (_PAUSE * (ended - started) if ended - started > _SOON_S else 0.0)
            return self.version


def version_of(folder: Path) -> str:
    """What the records and measurements of a study's runs are identified by: names, sizes and times of change, and which are worked on.

    A run that is killed leaves its record as it was.
    """
    files = [*folder.glob(f"*/{RECORD}"), *folder.glob("*/evals/step-*.json")]
    found = sorted(map(_state_of, files))
    held = sorted(str(file) for file in folder.glob(f"*/{LOCK}") if is_held(file))
    return f'"{xxhash.xxh3_64_hexdigest(repr((found, held)).encode())}"'


def _state_of(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:  # a run that goes on from a checkpoint takes back later measurements
        return str(file), 0, 0
    return str(file), status.st_mtime_ns, status.st_size


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
            records.append({**record, **kept_sizes(place), "final": metrics, "step": step, "status": status_of(record)})
            if record["job"] == "rm":
                notes.append(f"{place.name} is not finished ({status_of(record)}): its scores are those of step {step}.")
        else:
            notes.append(f"{place.name} has no measurement yet ({status_of(record)}).")
    if not records and not notes:
        notes.append(f"There is no run in {folder} yet. Once there is one, it stands here: this page changes by itself.")
    policies = [str(base) for record in records if record["job"] == "ppo" and (base := value_at(record, "lineage.base"))]
    wall_s = sum(float(record.get("wall_s") or 0.0) for record in records)
    lineage = policies[0] if policies else ""
    summary = summarize(study=folder.name, wall_s=wall_s, records=records, pools=None, policy_lineage=lineage, notes=notes)
    add_findings(summary, ReportJob())
    return summary


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that is closed while it gets an answer is no error; of any other the terminal gets a line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"a request failed: {shown(str(error))}", file=sys.stderr, flush=True)


def server_of(folder: Path, port: int, make: Callable[[Path, str], str] = _made) -> ThreadingHTTPServer:
    """A server of the report of the runs in `folder`, on this machine's own address alone; port 0 is any free one.

    It knows two addresses, `/` and `/update`, reads no file by a name from a request, and answers only to its own host names, so that no
    other page in the browser can read it. `make` makes the page of a folder and a version. Raises `ValueError` if the port is taken.
    """
    pages = Pages(folder=folder, make=make)
    told: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not _OWN_NAMES.fullmatch(self.headers.get("Host") or ""):
                self._answer(HTTPStatus.FORBIDDEN, b"unknown host: open this page as localhost, through a tunnel too (ssh -L)")
            elif self.path not in ("/", "/update"):
                self._answer(HTTPStatus.NOT_FOUND, b"there is / and nothing else")
            else:
                self._send_page()

        def _send_page(self) -> None:
            try:
                version = pages.newest()
            except Exception as error:  # of any kind: a file that is being moved or was damaged; the next request tries again
                self._say_failed(error)
                return
            if self.path == "/update" and self.headers.get("If-None-Match") == version:
                self._answer(HTTPStatus.NOT_MODIFIED, b"", ETag=version)
            else:
                page = pages.update if self.path == "/update" else pages.page
                self._answer(HTTPStatus.OK, page, **{"ETag": version, "Content-Type": "text/html; charset=utf-8"})

        def _say_failed(self, error: Exception) -> None:
            said = shown(f"the page cannot be made ({type(error).__name__}: {error})")
            if said not in told:
                told.add(said)
                print(said, file=sys.stderr, flush=True)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, said.encode())

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
        return _Server((HOST, port), Handler)
    except OSError as error:
        raise ValueError(f"port={port} cannot be used ({error.strerror}); choose another one, or port=0 for any that is free.") from None


def serve(folder: Path, port: int, say: Callable[[str], None] = print) -> None:
    """Serves until the process is told to stop."""
    with server_of(folder, port) as server:
        try:
            say(f"http://{HOST}:{server.server_address[1]}/ follows the runs in {folder}; Ctrl-C ends it and leaves them alone")
            if not folder.is_dir():
                say(f"{folder} does not exist yet, and the page waits for it{near_studies(folder)}")
            os.nice(_NICE)
            server.serve_forever()
        except (KeyboardInterrupt, Preempted):
            say("the server has ended; the runs go on without it")
