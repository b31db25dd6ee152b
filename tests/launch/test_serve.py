"""`rewardloop report serve=true`: a page on this machine's own address that follows running jobs and writes nothing."""

import json
import threading
from collections.abc import Generator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from core.runs.record import LOCK, finish_run
from launch.entry import composed
from launch.jobs.serve import live_summary, server_of, version_of
from launch.schema import ReportJob
from tests.browser import browser, open_page
from tests.launch.test_report_of_runs import trained


@pytest.fixture
def port(tmp_path: Path) -> Generator[int]:
    """The port of a server of the study `live`, in which one reward model still trains."""
    trained(tmp_path, "live", "a", 0.6, finished=False)
    with server_of(tmp_path / "live", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        assert server.server_address[0] == "127.0.0.1"
        yield server.server_address[1]
        server.shutdown()
        thread.join()


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


def test_nothing_but_the_page_is_served_and_only_under_its_own_names(port: int) -> None:
    for path in ("/../../etc/passwd", "/%2e%2e/record.json", "/record.json", "//etc/passwd", "/update?x=1"):
        assert get(port, path)[0] == 404, path
    assert get(port, "/", Host="evil.example")[0] == 403


def test_a_broken_record_and_a_run_without_a_measurement_are_named(tmp_path: Path) -> None:
    run = trained(tmp_path, "live", "a", 0.6)
    broken, empty = trained(tmp_path, "live", "b", 0.7), trained(tmp_path, "live", "c", 0.8, finished=False)
    (broken.dir / "record.json").write_text("{torn")
    eval_file(empty.dir, 5).unlink()
    summary = live_summary(tmp_path / "live")
    assert [model["id"] for model in summary["reward_models"]] == [run.id]
    assert [broken.dir.name in summary["notes"][0], empty.dir.name in summary["notes"][1]] == [True, True]


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
