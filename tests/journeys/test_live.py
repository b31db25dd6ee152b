"""A study in one terminal, `rewardloop report serve=true` in another: the page follows it, and killing either harms nothing."""

from pathlib import Path

import pytest

from core.hooks.hook import measured_steps
from tests.browser import browser, open_page
from tests.launch.test_live import kill, serve, until
from tests.launch.test_study import start as start_study

pytestmark = pytest.mark.long  # a study and a browser together take minutes

WAIT_S = 240


def test_a_page_follows_a_study_through_kills_of_the_server_and_of_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    study = start_study(tmp_path)
    server, port = serve(tmp_path, "tiny")
    with browser() as chromium:
        page = open_page(chromium, f"http://127.0.0.1:{port}/").page

        def names() -> list[str]:
            return page.evaluate("JSON.parse(document.getElementById('data').textContent).models.map(model => model.id)")

        page.evaluate("window.stays = true")
        until(lambda: any(map(measured_steps, folder.glob("rm-*"))), "no reward model was measured", WAIT_S)
        until(names, "the first checkpoint did not appear")
        kill(server)
        until(lambda: "does not answer" in page.inner_text("body"), "the page does not say that the server is gone")
        kill(study)
        again, _ = serve(tmp_path, "tiny", port)
        until(lambda: "does not answer" not in page.inner_text("body"), "the page did not find the server again")
        until(lambda: "(running)" not in page.inner_text("body"), "the page takes runs that were killed for running ones")
        study = start_study(tmp_path)
        output, _ = study.communicate(timeout=WAIT_S)
        assert study.returncode == 0, output
        until(lambda: len(names()) == 3, "the page did not follow the study that was started again")
        until(lambda: "is not finished" not in page.inner_text("body"), "the page does not show the end of the runs")
        assert page.evaluate("window.stays") is True  # never loaded again
        kill(again)
