"""What a hub may do while a sweep is published: refuse, fail, hold something already."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.text import duration
from launch.publish.folders import FACTS, NOTICE, RESULTS
from tests.launch.publish.hub import Hub
from tests.launch.publish.made import LICENSE, branch_of, publish, rows_of, trained

pytestmark = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of the hub's client, without its own servers
]


@pytest.mark.parametrize(
    ("fault", "path", "said"),
    [
        (401, "/api/models/me/rm", "(401: the disk is full); log in with `hf auth login`, or set HF_TOKEN"),
        (403, "/repos/create", "(403: the disk is full); log in with `hf auth login`, or set HF_TOKEN"),
        (403, "/commit/", "(403: the disk is full); log in with `hf auth login`, or set HF_TOKEN"),
        (409, "/commit/", "(409: the disk is full); somebody else is changing the repository"),
        (429, "/preupload/", "(429: the disk is full); the hub asks for a pause"),
        (500, "/lfs/", "(500: the disk is full); the same command goes on from there"),
        ("reset", "/refs", "; the same command goes on from there"),
        ("reset", "/lfs/", "; the same command goes on from there"),
        ("html", "/refs", "answered something else than a hub does"),
        ("html", "/commit/", "answered something else than a hub does: no JSON but <html>Please log in</html>; look at"),
        ("odd", "/objects/batch", "Malformed response from server"),
        ("odd", "/refs", "answered something else than a hub does: an object without what is asked for, {}"),
        ("list", "/models/me/rm", "/api/models/me/rm answered something else than a hub does: a JSON list, [1, 2]; look at HF_ENDPOINT"),
        ("list", "/repos/create", "/api/repos/create answered something else than a hub does: a JSON list, [1, 2]"),
        ("list", "/refs", "/api/models/me/rm/refs answered something else than a hub does: a JSON list, [1, 2]"),
        ("list", "/tree/", "/api/models/me/rm/tree/main answered something else than a hub does: a JSON list, [1, 2]"),
        ("list", "/preupload/", "/preupload/mine-a2c526aa answered something else than a hub does: a JSON list, [1, 2]"),
        ("list", "/commit/", "/commit/mine-a2c526aa answered something else than a hub does: a JSON list, [1, 2]"),
        ("text", "/refs", 'answered something else than a hub does: JSON, "hello"'),
    ],
)
def test_a_hub_that_fails_ends_the_command_with_one_line_and_the_same_command_goes_on(
    fault: int | str, path: str, said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    trained(0.5)
    hub.faults[path] = fault
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert said in line
    assert "model.safetensors" not in hub.branches.get("main", {})
    hub.faults.clear()
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert hub.branches["main"]["model.safetensors"] == b"0.500000000"


IN_TWO_MINUTES = "Mon, 01 Jan 2035 00:02:00 GMT"


@pytest.mark.parametrize(
    ("path", "status", "headers", "waits"),
    [
        ("/commit/", 429, {"Retry-After": "7"}, 7.0),
        ("/refs", 503, {"Retry-After": "7"}, 7.0),
        ("/refs", 503, {"Retry-After": "0"}, 1.0),
        ("/models/me/rm", 429, {"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 55.0),
        ("/commit/", 429, {"Retry-After": IN_TWO_MINUTES}, 120.0),
        # In these the hub's client waits, a second longer.
        ("/tree/", 429, {"Retry-After": IN_TWO_MINUTES}, 121.0),
        ("/preupload/", 429, {"Retry-After": "7"}, 8.0),
        ("/lfs/", 503, {"Retry-After": "7"}, 8.0),
        ("/commit/", 429, {}, 10.0),
        ("/commit/", 429, {"RateLimit": '"api";r=3;t=55'}, 10.0),  # it does not ask for this pause
    ],
)
def test_a_pause_that_the_hub_asks_for_is_made_and_told(
    path: str,
    status: int,
    headers: dict[str, str],
    waits: float,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slept = without_sleep(monkeypatch)
    trained(0.5)
    hub.pauses.append((path, status, headers))
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert (slept, hub.pauses, hub.branches["main"]["model.safetensors"]) == ([waits], [], b"0.500000000")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "asks for a pause" in line]
    assert line.startswith(hub.url)
    assert f"({status}): going on in {duration(waits - (path in ('/tree/', '/preupload/', '/lfs/')))}" in line


def test_pauses_that_take_too_long_end_the_command_and_the_same_command_goes_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the hub's client would wait by itself, silently: before a commit, and for a large file."""
    slept = without_sleep(monkeypatch)
    trained(0.5)
    for path in ("/refs", "/preupload/", "/lfs/", "/commit/"):
        hub.pauses.append((path, 429, {"Retry-After": "901"}))
        assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert f"{path}" in line
        assert f"asks for a pause of {duration(901)} (429), which is longer than this command waits; the same command" in line
    assert not slept
    # 400 + 400 s are less than 900 s, a third pause would be more.
    hub.pauses += [("/commit/", 429, {"Retry-After": "400"})] * 3
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert slept == [400.0, 400.0]
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert hub.branches["main"]["model.safetensors"] == b"0.500000000"


def without_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are slept from now on, which take none, on New Year of 2035 in UTC."""
    slept: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    monkeypatch.setattr("launch.publish.asking.now", lambda: datetime(2035, 1, 1, tzinfo=UTC))
    return slept


def test_a_model_of_somebody_else_s_is_left_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5)
    hub.branches["main"] = {".gitattributes": b"", "model.safetensors": b"theirs", "README.md": b"theirs"}
    hub.commits["main"] = "0" * 40
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert "me/rm holds a model that was not published from here (main: model.safetensors); name another" in capsys.readouterr().err
    assert hub.branches == {"main": {".gitattributes": b"", "model.safetensors": b"theirs", "README.md": b"theirs"}}


def test_an_empty_repository_is_filled_and_what_its_owner_adds_stays(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5, files={"model-00001-of-00002.safetensors": "1", "model.safetensors.index.json": "{}"})
    hub.branches["main"], hub.commits["main"] = {".gitattributes": b"", "LICENSE": b"text"}, "0" * 40
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    hub.branches["main"] |= {"LICENSE": b"text", "picture.png": b"picture", ".eval_results/gsm8k.yaml": b"[]"}
    trained(0.9, "seed=1")
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert set(hub.branches["main"]) == {
        *(".gitattributes", "LICENSE", "picture.png", ".eval_results/gsm8k.yaml", RESULTS, FACTS, "README.md"),
        *("model.safetensors", "config.json"),  # the shards of the other run are gone
    }


def test_a_run_that_is_added_later_updates_every_card_and_the_better_one_is_main(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(0.5)
    publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch)
    second, third = trained(0.9, "seed=1"), trained(0.7, "seed=2")
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    for branch in ("main", *map(branch_of, (first, second, third))):
        rows = rows_of(hub.branches[branch]["README.md"].decode())
        assert [row["Revision"] for row in rows] == ["main", *map(branch_of, (second, third, first))]
    assert hub.branches["main"]["model.safetensors"] == b"0.900000000"


def test_revisions_of_before_are_not_forgotten_without_a_word(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained(0.9)
    publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch)
    hub.branches["notes"], hub.commits["notes"] = {"notes.md": b"somebody's own branch"}, "1" * 40
    second, card = trained(0.5, "seed=1"), hub.branches["main"]["README.md"]
    assert publish(str(second), "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert f"me/rm has 1 revision of before that these runs are not ({branch_of(first)}); name their runs too" in capsys.readouterr().err
    assert hub.branches["main"]["README.md"] == card
    assert publish(str(second), "repo=me/rm", LICENSE, "leave=true", monkeypatch=monkeypatch) == 0
    assert hub.branches["main"]["model.safetensors"] == b"0.500000000"
    assert hub.branches[branch_of(first)]["model.safetensors"] == b"0.900000000"
    assert hub.branches["notes"] == {"notes.md": b"somebody's own branch"}


def test_private_is_no_empty_promise(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5)
    assert publish("sweep", "repo=me/rm", LICENSE, "private=true", monkeypatch=monkeypatch) == 0
    assert hub.private
    hub.private = False
    assert publish("sweep", "repo=me/rm", LICENSE, "private=true", monkeypatch=monkeypatch) == 2
    assert "me/rm is there and public, which private=true does not change" in capsys.readouterr().err


def test_what_the_hub_warns_of_is_said_in_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5)
    hub.warns = "no such base"
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr()
    assert "the hub says of main: Warnings while validating metadata in README.md: - no such base\n" in said.out
    assert said.err == ""


def test_a_command_that_is_killed_while_it_sends_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = trained(0.9), trained(0.5, "seed=1")
    script = (
        "import os, signal, sys\nfrom huggingface_hub import HfApi, constants\nconstants.HF_HUB_DISABLE_XET = True\n"
        "from launch.publish import command, upload\nsent = HfApi.create_commit\n"
        "def once(self, *given, **named):\n    sent(self, *given, **named)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"HfApi.create_commit = once\nupload.HfApi = lambda: HfApi(endpoint={hub.url!r}, token='hf_test')\n"
        f"sys.argv = ['publish', 'sweep', 'repo=me/rm', {LICENSE!r}]\ncommand.main()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == -9
    assert hub.branches[branch_of(last)]["model.safetensors"] == b"0.500000000"
    assert branch_of(first) not in hub.branches
    hub.asked.clear()
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert hub.branches["main"]["model.safetensors"] == b"0.900000000"
    assert sum(asked.startswith("PUT") for asked in hub.asked) == 1  # the weights that were not there yet, once for both branches


def test_the_folder_is_written_anew_after_a_kill_and_nobody_else_s_folder_is_removed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5)
    arguments = ("sweep", "repo=me/rm", LICENSE, "dry_run=true")
    assert publish(*arguments, monkeypatch=monkeypatch) == 0
    Path("runs/publish-me-rm/main/README.md").unlink()  # as a killed command leaves it
    assert publish(*arguments, monkeypatch=monkeypatch) == 0
    assert Path("runs/publish-me-rm/main/README.md").is_file()
    mine = Path("models/mine/README.md")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert publish(*arguments, "out=models", monkeypatch=monkeypatch) == 2
    assert "out=models holds something else, which would be removed" in capsys.readouterr().err
    assert mine.is_file()


def test_a_notice_goes_with_the_weights_where_the_license_asks_for_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5)
    assert publish("sweep", "repo=me/rm", "license=llama3.1", monkeypatch=monkeypatch) == 0
    assert hub.branches["main"][NOTICE].decode() == (
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
    )
