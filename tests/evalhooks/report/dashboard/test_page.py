"""The page in a browser: no script fails, figures are drawn, tables sort and filter, rows open, at a desk and on a phone."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalhooks.analysis.findings import findings
from evalhooks.report import write_report
from evalhooks.report.scores.files import write_findings
from tests.browser import DESK, PHONE, Opened, browser, open_page
from tests.evalhooks.report.dashboard.test_explorer import table
from tests.evalhooks.report.dashboard.test_payload import checkpoint
from tests.evalhooks.report.test_report import summary

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FIGURES = (
    "benchmark",
    "links",
    "grid",
    "domains",
    "training-benchmark",
    "training-bon",
    "best-of-n",
    "ppo-downstream",
    "ppo-kl",
    "run-scores",
)


@pytest.fixture(scope="module")
def chromium() -> "Generator[Browser]":
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of four reward models and two policies, one of the reward models with its rows on disk."""
    folder = tmp_path_factory.mktemp("study")
    checkpoint(folder / "run", 5, [float(number) for number in range(-2, 8)])
    checkpoint(folder / "run", 10, [1.0] * 8 + [-3.0, -1.0])
    given = summary()
    given["reward_models"][1] |= {"dir": str(folder / "run"), "details": {"curves": {"loss": [[1, 0.7], [2, 0.6]]}}}
    answer = {"text": "<b>four</b>", "score": 1.5, "correct": 0.0}
    given["ppo"][0]["details"] = {"samples": [{"task": "sums", "step": 10, "prompt": "2 + 3?", "completions": [answer]}]}
    return write_report(given, folder / "report")


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def opened(chromium: "Browser", report: Path, request: pytest.FixtureRequest) -> Generator[Opened]:
    yield from _opened(chromium, report, request.param)


@pytest.fixture(scope="module")
def desk(chromium: "Browser", report: Path) -> Generator[Opened]:
    """One page for the tests that leave it as they found it: to open it takes a browser seconds."""
    yield from _opened(chromium, report, DESK)


def _opened(chromium: "Browser", report: Path, size: tuple[int, int]) -> Generator[Opened]:
    found = open_page(chromium, report.as_uri(), size)
    yield found
    assert found.errors == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    found.page.close()


def names(opened: Opened, table: str = "models") -> list[str]:
    return opened.page.locator(f"#{table} tbody tr:visible td:first-child").all_inner_texts()


def drawn(opened: Opened, figure: str) -> list[dict[str, Any]]:
    """What a figure shows, as plotly holds it."""
    return opened.page.evaluate("id => document.getElementById(id).data.map(({name, x, y}) => ({name, x, y}))", f"figure-{figure}")


def test_all_figures_are_drawn_no_heading_covers_another_one_and_nothing_is_wider_than_the_window(opened: Opened) -> None:
    for name in FIGURES:
        assert opened.page.locator(f"#figure-{name} .main-svg").count() > 0, name
    width = opened.page.viewport_size["width"] if opened.page.viewport_size else 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    points = [trace for trace in drawn(opened, "benchmark") if trace["name"] == "tulu"]
    assert sorted(points[0]["x"]) == pytest.approx([50.0, 60.0])
    # The points lie on average = 30 + overall / 2.
    assert drawn(opened, "benchmark")[0]["y"] == pytest.approx([35.0, 72.245])
    _assert_apart(opened)


def _assert_apart(opened: Opened) -> None:
    """No heading covers another one."""
    boxes = [box for head in opened.page.locator("h2:visible, h3:visible").all() if (box := head.bounding_box())]
    assert len(boxes) > 10
    for number, a in enumerate(boxes):
        for b in boxes[number + 1 :]:
            apart = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            assert apart or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"]


def test_the_axes_of_steps_have_a_name_for_people(desk: Opened) -> None:
    titles = desk.page.locator(".xtitle").all_text_contents()
    assert titles.count("training step") >= 6
    assert not [title for title in titles if "/step" in title]


def test_a_click_on_a_head_sorts_and_another_one_turns_the_order(desk: Opened) -> None:
    assert names(desk) == ["best", "foreign", "middle", "flipped"]
    head = desk.page.locator("#models tr.sort button", has_text="Average")
    head.click()
    assert names(desk) == ["best", "foreign", "middle", "flipped"]
    head.click()
    assert names(desk) == ["flipped", "middle", "foreign", "best"]
    desk.page.locator("#models tr.sort button", has_text="Reward model").press("Enter")
    assert names(desk) == ["best", "flipped", "foreign", "middle"]
    desk.page.locator("#models tr.sort button", has_text="Overall").click()


@pytest.mark.parametrize(
    ("words", "left"),
    [("tulu", ["foreign", "middle"]), ("math>55", ["best", "foreign"]), ("skywork -flip", ["best"]), ("overall<=50 tulu", ["middle"])],
)
def test_the_filter_hides_rows_and_their_points(desk: Opened, words: str, left: list[str]) -> None:
    desk.page.fill("#models-filter", words)
    assert names(desk) == left
    assert desk.page.inner_text("#models-filter-count") == f"{len(left)} of 4 shown"
    shown = [x for trace in drawn(desk, "benchmark") if trace["name"] in ("tulu", "skywork") for x in trace["x"] if x is not None]
    assert len(shown) == len(left)
    desk.page.fill("#models-filter", "")
    assert len(names(desk)) == 4


def test_any_two_scores_can_be_chosen_from_lists_and_in_the_grid(desk: Opened) -> None:
    assert "Pearson r = " in desk.page.inner_text("#note-benchmark")
    desk.page.select_option("#explore-x", "rewardbench2/math")
    (tulu,) = [trace for trace in drawn(desk, "benchmark") if trace["name"] == "tulu"]
    math = desk.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).explorer.models.map(model => model.scores['rewardbench2/math'])"
    )
    assert set(tulu["x"]) <= set(math)
    desk.page.select_option("#explore-y", "rewardbench2/math")
    assert desk.page.inner_text("#note-benchmark") == "A score against itself."
    grid = "document.getElementById('figure-grid')"
    desk.page.evaluate(f"{grid}.emit('plotly_click', {{points: [{{x: 0, y: 0}}]}})")
    assert [desk.page.input_value(f"#explore-{axis}") for axis in "xy"] == ["rewardbench2/overall", "bon/average"]  # as at first


def test_the_correlation_of_what_the_filter_leaves_is_that_of_the_points_shown(desk: Opened) -> None:
    desk.page.fill("#models-filter", "math>55")  # two are left, which have no correlation
    assert "The filter leaves 2." in desk.page.inner_text("#note-benchmark")
    desk.page.fill("#models-filter", "-best")
    assert "Of the 3 that the filter leaves, r = 1.00." in desk.page.inner_text("#note-benchmark")  # they lie on one line
    desk.page.fill("#models-filter", "")


def test_the_list_of_sections_leads_to_them_and_stays_in_sight(opened: Opened) -> None:
    opened.page.locator("nav a", has_text="One run").click()
    nav, head = opened.page.locator("nav").bounding_box(), opened.page.locator("#run-section h2").bounding_box()
    assert nav is not None
    assert head is not None
    assert nav["y"] == pytest.approx(0, abs=1)
    assert nav["y"] + nav["height"] <= head["y"] < 200


def test_a_row_that_a_reward_model_gets_wrong_opens_by_key_to_its_completions_and_checkpoints(opened: Opened) -> None:
    row = opened.page.locator("#rows details.row").first
    assert "Math" in row.inner_text()
    row.locator("summary").focus()
    opened.page.keyboard.press("Enter")
    row.locator("table.completions").wait_for()  # it is filled once it is open, which the browser tells later
    text = row.inner_text()
    # Row 8 was right by 6 at step 5 and is wrong by 3 at step 10.
    assert "Question 8?" in text
    assert "✓ step 5: 6.000" in text
    assert "✗ step 10: \u22123.000" in text
    assert [cell.split("\t")[0] for cell in row.locator("table.completions tbody tr").all_inner_texts()] == ["right", "wrong"]
    opened.page.fill("#rows-words", "question 1?")
    assert opened.count("#rows details.row") == 1
    opened.page.fill("#rows-words", "nowhere")
    assert opened.page.inner_text("#rows .caption") == "0 of 0 rows"


def test_a_name_in_a_table_leads_to_the_curves_of_its_run(desk: Opened) -> None:
    desk.page.locator("#models button[data-run]", has_text="foreign").click()
    (benchmark, *_) = drawn(desk, "run-scores")
    assert (benchmark["x"], benchmark["y"]) == ([10, 20], pytest.approx([30.0, 60.0]))
    desk.page.locator("#policies button[data-run]", has_text="up").click()
    boxes = [desk.page.locator(f"#figure-{name} .main-svg").first.bounding_box() for name in ("run-scores", "run-distance")]
    (scores, distance) = [box for box in boxes if box is not None]
    assert scores["x"] + scores["width"] <= distance["x"] + 1  # the figure that had the width alone makes room
    downstream, reward = drawn(desk, "run-scores")
    assert downstream["y"] == pytest.approx([45.0, 50.0, 55.0])
    assert reward["y"] == pytest.approx([84.49, 84.49])  # the benchmark score of its reward model, on the same axis
    assert drawn(desk, "run-distance")[0]["y"] == [0.0, 0.5, 1.0]
    assert desk.page.locator("#figure-course-kl .main-svg").count() > 0
    desk.page.locator("#run-answers summary").click()
    assert "wrong, score 1.500 <b>four</b>" in desk.page.inner_text("#run-answers")  # text, never tags


def test_what_rewards_pay_for_is_shown_with_its_error_and_pale_where_it_may_be_nothing(chromium: "Browser", tmp_path: Path) -> None:
    given = summary()
    given["reward_models"][0]["checkpoints"][-1] |= {"bias/length": 0.4, "bias_se/length": 0.05, "bias/lists": -0.1, "bias_se/lists": 0.2}
    given["ppo"][0]["checkpoints"][0] |= {"bias/length": -0.2}
    given["ppo"][0]["checkpoints"][1] |= {"bias/length": 0.3, "bias_se/length": 0.1}
    opened = open_page(chromium, write_report(given, tmp_path).as_uri(), PHONE)
    opened.page.locator("#bias-section summary").click()
    cells = opened.page.locator("#biases tbody tr").all_inner_texts()
    assert sorted(cells) == sorted([f"{given['reward_models'][0]['name']}\t+0.40 ± 0.05\t\u22120.10 ± 0.20", "up\t+0.30 ± 0.10\t\u2013"])
    shades = opened.page.evaluate("document.getElementById('figure-bias').data[0].z")
    assert sorted(shades) == sorted([[0.4, -0.025], [0.3, None]])
    opened.page.fill("#policies-filter", "-up")
    assert opened.page.evaluate("document.getElementById('figure-bias').data[0].z") == [[0.4, -0.025]]
    opened.page.fill("#policies-filter", "")
    opened.page.locator("#policies button[data-run]", has_text="up").click()
    assert [trace["y"] for trace in drawn(opened, "run-biases")] == [[-0.2, 0.3]]
    assert opened.errors == []


def test_the_dark_page_has_light_text(chromium: "Browser", report: Path) -> None:
    found = open_page(chromium, report.as_uri(), PHONE, color_scheme="dark")
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    assert found.page.evaluate("getComputedStyle(document.querySelector('.main-svg text')).fill") == "rgb(230, 233, 238)"
    assert found.errors == []


def test_hostile_names_run_nothing(chromium: "Browser", tmp_path: Path) -> None:
    given = summary()
    hostile = "</script><img src=x onerror=\"document.title='taken'\"><b>&amp;"
    for number, model in enumerate(given["reward_models"]):
        model["name"], model["data"], model["base"] = f"{hostile}{number}", hostile, hostile
    for run in given["ppo"]:
        run["name"] = hostile
    found = open_page(chromium, write_report(given, tmp_path).as_uri())
    assert found.page.title() == "demo: rewardloop report"
    assert found.errors == []
    assert found.page.locator("main img, main svg image[href='x']").count() == 0


def test_the_page_of_a_table_of_scores_draws_any_score_against_any_other(chromium: "Browser", tmp_path: Path) -> None:
    path = write_findings(
        findings(table(protocols=True), benchmarks=["rewardbench2/overall"], downstream=["elo"]), tmp_path, title="scores"
    )
    opened = open_page(chromium, path.as_uri(), PHONE)
    assert [len(trace["x"]) for trace in drawn(opened, "benchmark") if trace["name"] == "juno"] == [4]  # those of one protocol
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    opened.page.select_option("#explore-x", "elo")
    opened.page.select_option("#explore-protocol", "protocol b")
    (points,) = [trace for trace in drawn(opened, "benchmark") if trace["name"] == "juno"]
    assert sorted(points["x"]) == [1001.0, 1003.0, 1005.0, 1007.0]
    assert opened.errors == []


def test_many_warnings_are_folded_and_curves_of_one_mix_have_names_and_colours(chromium: "Browser", tmp_path: Path) -> None:
    given = summary()
    for place, model in enumerate(given["reward_models"]):
        model["data"] = "mine"
        model["details"] = {"warnings": [f"warning {place}"]}
    opened = open_page(chromium, write_report(given, tmp_path / "many").as_uri(), PHONE)
    folded = opened.page.locator("#warnings")
    assert folded.locator("summary").inner_text() == "Warnings of runs: 4"
    assert not folded.locator("li").first.is_visible()
    assert opened.page.evaluate("document.querySelectorAll('#figure-training-benchmark .legendtext').length") == 4
    tints = opened.page.evaluate("document.getElementById('figure-training-benchmark').data.map(({line}) => line.color)")
    assert len(set(tints)) == 4
    for model in given["reward_models"][1:]:
        model["details"] = {}
    few = open_page(chromium, write_report(given, tmp_path / "few").as_uri(), PHONE)
    assert few.page.locator("#warnings").count() == 0
    assert few.page.locator("p.note", has_text="warning 0").is_visible()


def test_one_reward_model_has_no_spread_and_a_name_that_is_no_tag(chromium: "Browser", tmp_path: Path) -> None:
    given = summary()
    del given["reward_models"][1:], given["ppo"][:]
    given["reward_models"][0]["bon"] = {"<b>sums": 0.5}
    opened = open_page(chromium, write_report(given, tmp_path).as_uri(), PHONE)
    assert "RewardBench 2 spread" not in opened.page.inner_text(".tiles")
    assert "<b>sums" in str(opened.page.locator("#figure-benchmark .ytitle").text_content())
    assert opened.page.locator("#figure-benchmark .ytitle tspan[style*='bold']").count() == 0
    assert opened.errors == []


def test_an_empty_study_says_so_without_an_error(chromium: "Browser", tmp_path: Path) -> None:
    found = open_page(chromium, write_report({}, tmp_path).as_uri())
    assert found.errors == []
