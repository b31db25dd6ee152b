"""Hydra's flags, wherever they stand on the command line."""

from pathlib import Path

import pytest

from launch.compose import Composed
from launch.overrides.command_line import parse
from launch.schema import RMJob
from tests.launch.sweeps import OWN, code_of, never


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    folder = tmp_path / "my files, v=2"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nepochs: 3\n")
    return folder


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_files_in_a_folder_of_the_users_own_are_checked_and_used(
    flag: str, own_files: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs: list[int] = []

    def run(composed: Composed[RMJob]) -> None:
        epochs.append(composed.job.epochs)

    assert code_of(run, [*OWN, "experiment=mine", flag, str(own_files)]) == 0
    assert code_of(run, ["-m", f"{flag}={own_files}", *OWN, "experiment=mine", "optim.lr=1e-3,1e-4"]) == 0
    assert epochs == [3, 3, 3]
    assert code_of(never, [flag, "nowhere", *OWN]) == 2
    assert "--config-dir nowhere does not exist" in capsys.readouterr().err


def test_flags_may_stand_among_the_overrides() -> None:
    line = parse(RMJob, ["epochs=1,2", "-m", "name=1e3"])
    assert (line.multirun, line.informative, line.arguments) == (True, False, ("--multirun", "epochs=1,2", "name='1e3'"))
    assert parse(RMJob, ["--cfg", "job", "-p", "model"]).informative


@pytest.mark.parametrize(("argument", "said"), [("--config-name=x", "needs the folder of that"), ("--epochs=2", "--epochs=2 is no flag")])
def test_a_flag_that_does_not_work_here_is_refused(argument: str, said: str, alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(never, [argument, *OWN]) == 2
    assert said in capsys.readouterr().err
