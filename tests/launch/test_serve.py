"""`rewardloop report serve=true`: a page on this machine's own address that follows running jobs and writes nothing."""

import json
import socket
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file, measured_steps
from core.records import AXIS
from core.runs.record import LOCK, RECORD, finish_run
from evalhooks.measured_rows import ROWS_FILE
from launch.entry import composed
from launch.history.find import near_studies
from launch.jobs.serve import Pages, live_summary, server_of, version_of
from launch.schema import ReportJob
from tests.browser import browser, open_page
from tests.launch.test_report_of_runs import draw, trained


@contextmanager
def served(folder: Path) -> Generator[int]:
    """The port of a server of a study's folder."""
    with server_of(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        assert server.server_address[0] == "127.0.0.1"
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def port(tmp_path: Path) -> Generator[int]:
    """The port of a server of the study `live`, in which one reward model still trains."""
    trained(tmp_path, "live", "a", 0.6, finished=False)
    with served(tmp_path / "live") as port:
        yield port


def get(port: int, path: str, **headers: str) -> tuple[int, str, str]:
    """Status, version and text of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers.get("ETag", ""), text


def test_a_new_checkpoint_makes_a_new_version_and_an_old_one_is_not_sent_again(tmp_path: Path, port: int) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, version, page = get(port, "/")
    assert (status, "is not finished (running): its scores are those of step 5" in page) == (200, True)
    assert "connect-src 'self'" in page
    assert get(port, "/update", If_None_Match=version)[0] == 304
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    run_dir = next((tmp_path / "live").glob("rm-a-*"))
    write_json(eval_file(run_dir, 10), {AXIS: 10, "held_out/accuracy": 0.7})
    status, newer, page = get(port, "/update", If_None_Match=version)
    assert (status, newer != version, "those of step 10" in page) == (200, True, True)
    assert len(page) < 200_000 < len(get(port, "/")[2])  # the open page has plotly.js already
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["models"][0]["checkpoints"]["step"] == [5, 10]


def test_nothing_but_the_page_is_served_and_only_under_its_own_names(port: int) -> None:
    for path in ("/../../etc/passwd", "/%2e%2e/record.json", "/record.json", "//etc/passwd", "/update?x=1"):
        assert get(port, path)[0] == 404, path
    for host in ("evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", "localhost@evil.example", ""):
        assert get(port, "/", Host=host)[0] == 403, host
    for host in ("localhost:9000", "127.0.0.1", "LOCALHOST:80", "[::1]:9000"):  # a tunnel has a port of its own
        assert get(port, "/", Host=host)[0] == 200, host


def test_a_study_that_is_not_there_yet_is_waited_for_and_appears(tmp_path: Path) -> None:
    trained(tmp_path, "tuesday", "b", 0.7)
    with served(tmp_path / "tuesda") as port:
        status, version, page = get(port, "/")
        assert (status, "There is no run in" in page) == (200, True)
        assert get(port, "/update", If_None_Match=version)[0] == 304
        trained(tmp_path, "tuesda", "a", 0.6, finished=False)
        assert "its scores are those of step 5" in get(port, "/update", If_None_Match=version)[2]
    assert near_studies(tmp_path / "tuesdy").startswith("; did you mean study=tues")
    assert near_studies(tmp_path / "friday" / "x") == ""
    with pytest.raises(ValueError, match="did you mean study=tues"):
        draw(f"runs_dir={tmp_path}", "study=tuesdai")


def test_a_page_that_takes_long_is_made_with_pauses_and_the_newest_state_comes_in_the_end(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6, finished=False)
    made: list[float] = []

    def slow(folder: Path, version: str) -> str:
        made.append(time.monotonic())
        time.sleep(0.6)
        return f"{len(measured_steps(run.dir))} checkpoints"

    pages, versions = Pages(folder=tmp_path / "live", make=slow), list[str]()
    started = time.monotonic()
    for step in range(10, 10**6, 5):
        write_json(eval_file(run.dir, step), {AXIS: step, "held_out/accuracy": 0.7})
        versions.append(pages.newest())
        if time.monotonic() > started + 3.5:
            break
        time.sleep(0.05)
    assert len(made) == 2  # after 0 s and 0.6 s + 3 * 0.6 s, not one for each of dozens of changes
    assert len(set(versions)) == 2
    pages.due = 0.0
    pages.newest()
    assert pages.page.decode() == f"{len(measured_steps(run.dir))} checkpoints"


def test_what_goes_wrong_is_told_on_the_page_and_once_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "live", "a", 0.6)
    record = json.loads((run.dir / RECORD).read_text())
    write_json(run.dir / RECORD, {**record, "final": {"held_out/accuracy": "much"}})
    said = "the page cannot be made (ValueError: could not convert string to float: 'much')"
    with served(tmp_path / "live") as port:
        for _ in range(2):
            assert get(port, "/")[::2] == (503, said)
    assert capsys.readouterr().err == f"{said}\n"


def test_a_browser_that_is_closed_amid_an_answer_leaves_the_terminal_alone(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(100)
    assert get(port, "/")[0] == 200
    assert capsys.readouterr().err == ""


def test_a_broken_record_and_a_run_without_a_measurement_are_named(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6)
    broken, empty = trained(tmp_path, "live", "b", 0.7), trained(tmp_path, "live", "c", 0.8, finished=False)
    (broken.dir / "record.json").write_text("{torn")
    eval_file(empty.dir, 5).unlink()
    summary = live_summary(tmp_path / "live")
    assert [model["id"] for model in summary["reward_models"]] == [run.id]
    assert [broken.dir.name in summary["notes"][0], empty.dir.name in summary["notes"][1]] == [True, True]


def test_a_run_under_a_budget_is_known_by_the_rows_that_it_was_measured_on_before_its_end(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6, finished=False)
    write_json(run.dir / ROWS_FILE, {"share": 0.5, "rows": {"rewardbench2": [41, 1865]}})
    (model,) = live_summary(tmp_path / "live")["reward_models"]
    assert "41 of 1865 rows of rewardbench2" in model["protocol"]["protocol"]


def test_the_end_of_a_run_is_a_new_version(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6, finished=False)
    before = version_of(tmp_path / "live")
    finish_run(run, final={"held_out/accuracy": 0.6}, step=5, best_step=5)
    assert version_of(tmp_path / "live") != before
    assert live_summary(tmp_path / "live")["notes"] == []


def test_a_run_that_was_killed_is_a_new_version_and_named_as_killed(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6, finished=False)
    before = version_of(tmp_path / "live")
    assert "is not finished (running)" in live_summary(tmp_path / "live")["notes"][0]
    (run.dir / LOCK).unlink()  # as if no process held it; the record stays as it was
    assert version_of(tmp_path / "live") != before
    assert "is not finished (killed)" in live_summary(tmp_path / "live")["notes"][0]


def test_a_taken_port_and_keys_that_do_not_go_together_are_refused(port: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"port={port} cannot be used"):
        server_of(tmp_path / "live", port)
    with pytest.raises(ValueError, match="leave runs, scores and out"):
        composed(ReportJob, ["serve=true", "runs=[a]"])
    with pytest.raises(ValueError, match="is no port"):
        composed(ReportJob, ["serve=true", "port=70000"])


def test_a_page_in_a_browser_shows_a_new_checkpoint_without_a_reload_and_keeps_the_filter(tmp_path: Path, port: int) -> None:
    with browser() as chromium:
        opened = open_page(chromium, f"http://127.0.0.1:{port}/")
        opened.page.fill("#models-filter", "a")
        run_dir = next((tmp_path / "live").glob("rm-a-*"))
        write_json(eval_file(run_dir, 10), {AXIS: 10, "held_out/accuracy": 0.7})
        opened.page.wait_for_selector("text=those of step 10")
        steps = opened.page.evaluate("JSON.parse(document.getElementById('data').textContent).models[0].checkpoints.step")
        assert json.dumps(steps) == "[5, 10]"
        assert opened.page.input_value("#models-filter") == "a"
        assert opened.errors == []
