"""One GPU measured in at most six minutes, the rows that matter most first; each is printed as it comes.

    python -m benchmarks.gpu [--only scoring,training] [--seconds 345] [--json OUT]
    python -m benchmarks.gpu --tiny      # seconds on a CPU: that the script works, not how fast anything is

Weights are random and made on the device, so nothing is downloaded, and nothing need be installed: the checkout and its
dependencies on PYTHONPATH are enough. A row that fails is told, and the others go on: rows run in a process of their own, and the
next one takes over where it dies or a row takes longer than its limit.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.gpu.rows import ROWS

GRACE = 10.0
"""Seconds after its limit at which a row that does not end is killed with its process."""


def main() -> int:
    arguments = parse()
    chosen = arguments.only.split(",") if arguments.only else [row.name for row in ROWS]
    unknown = sorted(set(chosen) - {row.name for row in ROWS})
    if unknown:
        raise SystemExit(f"--only: no row is called {', '.join(unknown)}; choose from {', '.join(row.name for row in ROWS)}")
    ends = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        log.touch()
        waiting = [row for row in ROWS if row.name in chosen]
        workers = Workers(log, with_usual_names(Path(folder)), tiny=arguments.tiny)
        while waiting and time.monotonic() < ends:
            run([row.name for row in waiting], log, ends, workers, tiny=arguments.tiny)
            done = {entry["row"] for entry in entries(log) if entry["event"] in ("end", "fail")}
            waiting = [row for row in waiting if row.name not in done]
        workers.close()
        for row in waiting:
            tell(log, {"row": row.name, "event": "fail", "why": "no time was left"})
        found = [entry for entry in entries(log) if entry["event"] in ("finding", "fail")]
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")
    return int(any(entry["event"] == "fail" for entry in found))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="these rows only: " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--tiny", action="store_true", help="tiny models and shapes")
    parser.add_argument("--seconds", type=float, default=345.0, help="no row begins later, and none goes on")
    parser.add_argument("--json", type=Path, help="where all findings are written at the end")
    return parser.parse_args()


def with_usual_names(folder: Path) -> dict[str, str]:
    """The environment, its folders of packages reached through links called site-packages: elsewhere dill takes a library for the user's
    own code, which `datasets` then cannot fingerprint."""
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for number, place in enumerate(places):
        if place and Path(place).name not in ("site-packages", "dist-packages") and (Path(place) / "datasets").is_dir():
            link = folder / str(number) / "site-packages"
            link.parent.mkdir()
            link.symlink_to(Path(place).resolve())
            places[number] = str(link)
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


class Workers:
    """The processes of rows. While one runs, the next is there and has imported what it needs, which takes as long as a row."""

    def __init__(self, log: Path, environment: dict[str, str], *, tiny: bool) -> None:
        self._command = [sys.executable, "-m", "benchmarks.gpu.worker", str(log), *(["--tiny"] if tiny else [])]
        self._environment = environment
        self._spare = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def begin(self, names: list[str]) -> subprocess.Popen[str]:
        """The process that was ready, with its rows."""
        worker, self._spare = self._spare, self._start()
        assert worker.stdin is not None
        with suppress(BrokenPipeError), worker.stdin as pipe:  # it may have died
            pipe.write(",".join(names) + "\n")
        return worker

    def close(self) -> None:
        """Ends the process that no row needs."""
        self._spare.kill()
        self._spare.communicate()


def run(names: list[str], log: Path, ends: float, workers: Workers, *, tiny: bool) -> None:
    """The rows in one process, until it ends, or a row in it does not."""
    limits = {row.name: row.seconds(tiny=tiny) for row in ROWS}
    before = len(begun_rows(log))
    process = workers.begin(names)
    current, since = "", time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            begun = begun_rows(log)[before:]
            if begun and begun[-1] != current:
                current, since = begun[-1], time.monotonic()
            late = bool(current) and time.monotonic() - since > limits[current] + GRACE
            if late or time.monotonic() > ends:
                process.kill()
    finally:
        # With the commands that its rows have started, which would slow the next ones down: they are of its group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    begun = begun_rows(log)[before:]
    over = {entry["row"] for entry in entries(log) if entry["event"] in ("end", "fail")}
    for name in begun or names[:1]:
        if name not in over:
            tell(log, {"row": name, "event": "fail", "why": f"its process ended with code {process.returncode}"})


def begun_rows(log: Path) -> list[str]:
    """The rows that have begun, in that order."""
    return [entry["row"] for entry in entries(log) if entry["event"] == "begin"]


def entries(log: Path) -> list[dict[str, str]]:
    """What the rows have written so far; a line that is being written is left out."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def tell(log: Path, entry: dict[str, str]) -> None:
    print(f"{entry['row']}: FAILED ({entry['why']})", flush=True)
    with log.open("a") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
