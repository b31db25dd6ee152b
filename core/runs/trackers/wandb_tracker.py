"""Weights & Biases as a tracker, which a run can do without: what cannot be sent is kept offline, and the plain files have all."""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from core.disk import jsonable, remove
from core.process.signals import EXIT_CODE, INTERRUPTED
from core.runs.samples import FOLDER
from core.runs.trackers.mirror import best_of, is_new
from core.runs.trackers.tables import CheckpointTables
from core.runs.trackers.wandb_rows import ONLINE, earlier_rows, is_elsewhere, offline_folders, remove_folders, wandb_tables
from core.runs.tracking import AXES, METRICS, Row
from core.text import redacted_values, shown

if TYPE_CHECKING:  # takes seconds to import
    import wandb

T = TypeVar("T")

MODES = ("auto", "online", "offline", "disabled")

_START_S, _ANSWER_S = 10.0, 15.0
"""Seconds for W&B's host to answer at the start of a run, and for its service on this machine to answer at any time."""
_DATA, _DATA_DIR = "data", "WANDB_DATA_DIR"
"""The folder of what W&B stages, beside the folders of its runs, and the variable that names it."""
_IN_FLIGHT_S = 3.0
"""Seconds after which the service has written a row to disk."""


class WandbTracker:
    """Logs to Weights & Biases, with every metric bound to its step axis.

    `mode` is "online", "offline", "disabled" or "auto". The last follows the environment (WANDB_MODE) or W&B's settings; if
    they leave it open, it is online with an API key and offline, with a note, without one. The run's files go to
    `<dir>/wandb`. With `id`, a stopped run continues under the same id and every step is there once: online, rows that W&B has are
    not sent again; offline, the new folder takes in what `metrics.jsonl` beside it has of the earlier ones, which are removed unless W&B's
    host has them.

    If W&B's host does not answer, answers with anything but a run, or if W&B's own service on this machine ends or hangs, the run
    goes on offline, and one line says how to upload it. Nothing here raises for that, or waits for more than 20 s.

    `group` and `job` are the group and the kind of the run there. The summary of a finished run has the last values and what was best
    (`best/step`, `best/rewardbench2/overall` and so on). What W&B stages of tables lies in the run's folder too, unless WANDB_DATA_DIR
    names another one: an offline run is uploaded from there.

    Only `config` is sent, neither the command line nor the git remote, since both may hold secrets. Raises `ValueError` for
    an unknown mode and `wandb.errors.UsageError` for "online" without a key.
    """

    def __init__(
        self,
        *,
        project: str,
        name: str,
        group: str,
        dir: Path,
        config: Mapping[str, Any],
        mode: str = "auto",
        id: str | None = None,
        job: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"The W&B mode is {mode!r}; it is one of {', '.join(MODES)}.")
        self._run: wandb.Run | None = None
        self._offline: tuple[str, str] | None = None
        self._bound: set[str] = set()
        self._tables = CheckpointTables(dir)
        self._lacks_tables = False
        self._own: list[Path] = []
        self._recent: list[tuple[float, Row]] = []
        self._name, self._files = name, dir / "wandb"
        if mode == "disabled":
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its service would send reports on itself, and print that it cannot
        dir.mkdir(parents=True, exist_ok=True)  # otherwise W&B falls back to /tmp
        self._earlier = lambda: earlier_rows(dir, self._files)
        self._sent = self._earlier()
        self._arguments: dict[str, Any] = {
            **{"project": project, "name": name, "group": group, "dir": dir, "config": redacted_values(jsonable(config))},
            **{"id": id, "resume": "allow" if id else None, "job_type": job},
        }
        wanted = _session_mode() if mode == "auto" else mode
        lacks_key = mode == "auto" and wanted == "online" and not has_api_key()
        if wanted == "online" and not lacks_key:
            self._start_online()
        else:
            self._offline = "offline" if lacks_key else wanted, "no API key found" if lacks_key else ""
            if is_new(dir):
                self._start_offline()

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        """Sends what is new in a row; each metric is bound, by its full name since globs would overlap, to the axis of its first row."""
        self._start_offline()
        if self._run is None or (row := self._sent.add(Row(axis=axis, step=step, metrics=metrics))) is None:
            return
        now = time.monotonic()
        self._recent = [recent for recent in self._recent if now - recent[0] < _IN_FLIGHT_S] + [(now, row)]
        try:
            self._send(row)
        except _failures() as error:
            self._go_offline(error, "*run-*")

    def close(self, *, exit_code: int = 0) -> None:
        """Finishes the run, so that the next one in this process is a new one.

        W&B shows it as finished, as preempted if `exit_code` is that of a stopped run, or else as failed.
        """
        self._start_offline()
        if self._run is None:
            return
        try:
            self._finish(exit_code)
        except _failures() as error:  # the first to show that the service ended after the last row, perhaps
            try:
                self._go_offline(error, "*run-*")
                self._finish(exit_code)
            except _failures() as problem:
                _abandon_service()
                self._say(f"not everything could be kept for it ({_reason(problem)})", "*run-*")
        finally:
            self._run = None

    def _start_offline(self) -> None:
        """Starts a run that begins offline, once: one that goes on only when its log has taken back what will be logged again."""
        if self._offline is None:
            return
        (mode, why), self._offline = self._offline, None
        self._sent = self._earlier()
        self._start(mode, why, "offline-run-*")

    def _start_online(self) -> None:
        from wandb.errors import UsageError

        silence()
        try:
            self._run = run = self._started("online")
            (self._files / ONLINE).touch()
            # One row is one step of W&B's own, so what its host lacks is known: all of a run that was logged offline so far.
            for row in self._sent.rows[_within(_ANSWER_S, lambda: run.starting_step) :]:
                self._send(row)
        except UsageError:  # no key, for instance, which only the user can change
            raise
        except _failures() as error:
            self._go_offline(error, "offline-run-*")

    def _started(self, mode: str) -> "wandb.Run":
        # W&B has a limit of its own for its host; its service on this machine takes some seconds to start.
        run = _within(_START_S + 5 if mode == "online" else _ANSWER_S, lambda: _start_run(mode, **self._arguments))
        for axis in AXES:
            run.define_metric(axis)
        return run

    def _go_offline(self, error: BaseException, runs: str) -> None:
        """Leaves a service or host that does not work, and starts the run once more without it."""
        self._run = None
        self._bound.clear()
        self._tables.forget()
        _abandon_service()
        self._start("offline", f"it does not work ({_reason(error)})", runs)

    def _start(self, mode: str, why: str, runs: str) -> None:
        """Starts the run without W&B's host, and says why if it is not as the user wanted; does without W&B if that fails."""
        earlier = offline_folders(self._files)
        try:
            self._run = run = self._started(mode)
            is_partial = is_elsewhere(self._files)
            if not is_partial and (self._files.parent / METRICS).exists():
                remove(self._files / _DATA)  # it is staged again
            # What was sent in the last seconds may have been lost; twice does less harm.
            for row in [row for _, row in self._recent] if is_partial else self._sent.rows:
                self._send(row)
            self._own.append(Path(run.settings.sync_dir))
            if not is_partial:
                self._remove(earlier)
        except _failures() as error:
            self._run = None
            print(f"W&B does not work here ({_reason(error)}); the metrics of {self._name} are in its metrics.jsonl", file=sys.stderr)
        else:
            if why:
                self._say(why, runs)

    def _remove(self, earlier: Sequence[Path]) -> None:
        """Removes earlier folders, whose rows are in the newest: those of earlier sessions only if there is a log to have them from."""
        has_all = (self._files.parent / METRICS).exists()
        *own, newest = self._own
        # A folder of the same second is the same folder.
        remove_folders([folder for folder in (earlier if has_all else own) if folder.exists() and not folder.samefile(newest)])

    def _finish(self, exit_code: int) -> None:
        if (run := self._run) is None:
            return

        def finish() -> None:
            if best := best_of(self._files.parent):
                run.summary.update(best)
            if exit_code in (EXIT_CODE, INTERRUPTED):
                run.mark_preempting()
            run.finish(exit_code=exit_code)

        _within(_ANSWER_S + 3, finish)  # which has a limit of its own

    def _send(self, row: Row) -> None:
        if (run := self._run) is None:
            return
        new = sorted(row.metrics.keys() - self._bound)
        values = {row.axis: row.step, **{name: float(value) for name, value in row.metrics.items()}}
        tables = wandb_tables(self._tables.of(row))

        def send() -> None:
            for name in new:
                run.define_metric(name, step_metric=row.axis)
            try:
                with _staging_in(self._files / _DATA):
                    run.log({**values, **tables})
            except OSError as error:
                if not tables:
                    raise
                run.log(values)  # raises again if it is the service that does not work
                self._say_without_tables(error)

        _within(_ANSWER_S, send)
        self._bound.update(new)

    def _say_without_tables(self, error: OSError) -> None:
        """Says once that W&B could not write a table, for which it needs a folder for temporary files, to its own."""
        if not self._lacks_tables:
            self._lacks_tables = True
            why = f"W&B: the samples of {self._name} could not be written for it ({_reason(error)}); the metrics go on"
            print(f"{why}, and the samples are in {self._files.parent / FOLDER}", file=sys.stderr, flush=True)

    def _say(self, why: str, runs: str) -> None:
        said = f"W&B: {why}, so {self._name} is logged offline; upload it with: wandb sync {self._files / runs}"
        print(said, file=sys.stderr, flush=True)


@contextmanager
def _staging_in(folder: Path) -> Generator[None]:
    """Context in which W&B puts what it has yet to upload into `folder`, and not into the home directory, unless the user chose a place."""
    if os.environ.get(_DATA_DIR):
        yield
        return
    os.environ[_DATA_DIR] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]


def _within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns or raises; `TimeoutError` if it takes longer, and then it is left behind in its thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised again below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


def _failures() -> tuple[type[Exception], ...]:
    """What W&B raises if its host or its service on this machine does not work."""
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return Error, OSError, HandleAbandonedError, MailboxClosedError, WandbServiceConnectionError


def _abandon_service() -> None:
    """Has the next run start W&B's service anew, and the end of this process not wait for the one there is."""
    import wandb

    try:
        _within(2.0, wandb.teardown)
    except (SystemExit, *_failures()):
        pass  # it is gone, or hangs


def _reason(error: BaseException) -> str:
    """An error of W&B's on one line."""
    return " ".join(shown(str(error)).split())[:200] or type(error).__name__


def _session_mode() -> str:
    """The mode set by W&B's environment variables and settings files, "online" by default."""
    return silence().settings.mode


def silence() -> Any:
    """W&B's session, in which it does not print what it finds about API keys, nor that it used one."""
    import wandb

    return wandb.setup(settings=wandb.Settings(silent=True))


def has_api_key() -> bool:
    """Whether W&B finds a key in its environment variables or settings files; it is not tried."""
    import wandb

    return wandb.login(prompt=False, verify=False)


def _start_run(mode: str, **arguments: Any) -> "wandb.Run":
    import wandb

    settings = wandb.Settings(
        mode=cast(Any, mode),
        silent=True,
        console="off",  # standard output stays the terminal's
        x_disable_meta=True,  # the command line may hold secrets
        disable_git=True,  # and so may the remote's URL
        disable_code=True,
        x_save_requirements=False,  # takes 65 ms of the 75 ms of a start; the run's record has the versions
        x_transaction_log_flush_interval=1.0,  # seconds; a killed run loses this much, by default 15
        init_timeout=_START_S,
        finish_timeout=_ANSWER_S,
        finish_timeout_raises=True,
    )
    # The default would return a run that other code in this process left open.
    return wandb.init(reinit="create_new", settings=settings, **arguments)
