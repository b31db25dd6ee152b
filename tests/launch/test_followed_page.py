"""What a reader has chosen on a page that follows running jobs stays chosen when reward models change their places."""

import threading
from pathlib import Path

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from core.runs.record import RECORD, read_record
from launch.jobs.serve import server_of
from tests.browser import browser, open_page
from tests.evalhooks.report.dashboard.test_payload import checkpoint
from tests.launch.test_report_of_runs import trained


def test_an_opened_row_a_chosen_run_and_a_chosen_pair_survive_a_new_best_reward_model(tmp_path: Path) -> None:
    first = trained(tmp_path, "live", "first", 0.6, finished=False)
    checkpoint(first.dir, 5, [float(number) for number in range(-2, 8)])
    write_json(eval_file(first.dir, 5), {AXIS: 5, "rewardbench2/overall": 0.5, "rewardbench2/math": 0.4, "bon/average@4": 0.5})
    other = trained(tmp_path, "live", "other", 0.7, finished=False)
    write_json(eval_file(other.dir, 5), {AXIS: 5, "rewardbench2/overall": 0.3, "rewardbench2/math": 0.2, "bon/average@4": 0.4})
    with server_of(tmp_path / "live", 0) as server, browser() as chromium:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = open_page(chromium, f"http://127.0.0.1:{server.server_address[1]}/").page
        page.select_option("#rows-model", label="first")
        page.select_option("#run-choice", label="first")
        page.select_option("#explore-x", "rewardbench2/math")
        row = page.locator("#rows details.row", has_text="row 1,")
        row.locator("summary").click()
        row.locator("table.completions").wait_for()
        page.locator("main summary", has_text="With standard errors, and held-out").click()
        told = [{"what": str(number), "key": "k", "text": f"warning {number}", "numbers": {}} for number in range(4)]
        write_json(other.dir / RECORD, {**read_record(other.dir), "warnings": told})
        write_json(eval_file(other.dir, 10), {AXIS: 10, "rewardbench2/overall": 0.9, "rewardbench2/math": 0.8, "bon/average@4": 0.6})
        page.wait_for_selector("text=those of step 10")
        assert page.locator("#models tbody tr td:first-child").all_inner_texts() == ["other", "first"]
        assert page.locator("#rows-model option:checked").inner_text() == "first"
        assert page.locator("#run-choice option:checked").inner_text() == "first"
        assert page.input_value("#explore-x") == "rewardbench2/math"
        row.locator("table.completions").wait_for()
        # A part that folds has come before the one that was opened.
        assert page.locator("#warnings[open]").count() == 0
        assert page.locator("details[open] > summary", has_text="With standard errors, and held-out").count() == 1
        server.shutdown()
        thread.join()
