"""The first seconds of a command: Ctrl-C and signals end it in one line, and the current folder hides no package."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cli import print_in_any_encoding

SLOW = "from pathlib import Path\nimport time\nPath('importing').touch()\ntime.sleep(60)\n"
STOPPED = "stopped; what is complete is kept, and the same command goes on from there\n"
COMMANDS = ("rm", "ppo", "bon", "bench", "study", "report")


def stopped_while_importing(package: str, folder: Path, number: int, *command: str) -> tuple[int, str]:
    """Exit code and error output of a command that got a signal while it imported a package, one that never ends."""
    (folder / "slow").mkdir()
    (folder / "slow" / f"{package}.py").write_text(SLOW)
    places = os.pathsep.join([str(folder / "slow"), *filter(None, [os.environ.get("PYTHONPATH"), os.getcwd()])])
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env={**os.environ, "PYTHONPATH": places}, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "importing").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_at_the_start_ends_a_command_without_a_traceback(tmp_path: Path, command: str) -> None:
    assert stopped_while_importing("hydra", tmp_path, signal.SIGINT, "-m", f"launch.{command}") == (130, STOPPED)


def test_the_console_script_is_interrupted_alike(tmp_path: Path) -> None:
    script = "import sys; from launch.cli import main; sys.argv = ['rewardloop', 'rm']; main()"
    assert stopped_while_importing("hydra", tmp_path, signal.SIGINT, "-c", script) == (130, STOPPED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_the_start_has_the_exit_code_of_a_run_that_can_go_on(tmp_path: Path, number: int) -> None:
    assert stopped_while_importing("hydra", tmp_path, number, "-m", "launch.rm") == (75, STOPPED)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_so_it_is_while_torch_is_imported(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}\n')
    chosen = ("model=custom", "model.path=base", "data=custom", "data.paths=[pairs.jsonl]")
    assert stopped_while_importing("torch", tmp_path, number, "-m", "launch.rm", *chosen) == (code, STOPPED)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_the_current_folder_is_not_taken_for_a_package(tmp_path: Path, command: str) -> None:
    for package in ("hydra", "omegaconf", "yaml", "rich"):
        (tmp_path / f"{package}.py").write_text("raise SystemExit('this is not the package')\n")
    ended = subprocess.run([sys.executable, "-m", f"launch.{command}", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_character_that_the_terminal_lacks_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    print_in_any_encoding()
    print("80.0 ± 4.0", flush=True)
    assert written.getvalue() == b"80.0 ? 4.0\n"
