"""The report of a study: what it says is what the summary holds, and what is missing is said to be."""

import copy
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from evalhooks.report import print_report, terminal_table, write_report
from evalhooks.report.charts import benchmark_vs_bon, ppo, regression, run_label, training
from evalhooks.report.details import losses
from evalhooks.report.facts import read
from evalhooks.report.prose import missing, result

PNGS = ["benchmark_vs_bon.png", "domains.png", "ppo.png", "training.png"]
COURSES = ["over_optimisation-1-up.png", "over_optimisation-2-down.png"]
FILES = [*PNGS, "reward_models.csv", "checkpoints.csv", "correlation.csv", "ppo.csv", "report.md", "summary.json", "report.html"]
NOTE = "A world made by one generator: a high r shows that the instrument works."
MAIN = "rewardbench2/overall~bon/average"


def reward_model(name: str, overall: float, average: float, **changes: Any) -> dict[str, Any]:
    domains = dict.fromkeys(["factuality", "precise_if", "math", "safety", "focus", "ties"], overall)
    steps = [{"step": step, "rewardbench2/overall": overall * step / 20, "bon/average@16": average} for step in (20, 10)]
    bon = {"sums": average - 0.1, "capitals": average + 0.1, "average": average}
    model = {"id": f"rm-{name}", "name": name, "base": "juno", "data": "tulu", "lr": 3e-5, "epochs": 1, "seed": 0, "control": False}
    return model | {"rewardbench2": domains | {"overall": overall}, "bon": bon, "bon_n": 16, "checkpoints": steps} | changes


def summary() -> dict[str, Any]:
    """Four RMs on the line average = 0.3 + overall / 2, and two PPO runs."""
    models = [
        reward_model("middle", 0.5, 0.55),
        reward_model("best", 0.8449, 0.72245, data="skywork"),
        reward_model("foreign", 0.6, 0.6, base="ceres"),
        reward_model("flipped", 0.1, 0.35, data="skywork", control=True),
    ]
    rise = [{"step": step, "downstream_average": 0.45 + step / 100, "kl": step / 10, "rm_score": step / 5} for step in (0, 5, 10)]
    fall = [{"step": step, "downstream_average": 0.45 - step / 100, "kl": step / 10, "rm_score": step / 5} for step in (0, 5, 10)]
    run = {"rm_base": "juno", "policy_base": "juno", "start_average": 0.45}
    return {
        "study": "demo",
        "wall_s": 452.3,
        "policy": {
            "id": "sft-juno",
            "lineage": "juno",
            "start": {"sums": 0.4, "capitals": 0.5, "average": 0.45},
            "oracle": {"sums": 0.9, "capitals": 0.95, "average": 0.925},
        },
        "reward_models": models,
        "correlation": {
            MAIN: {"pearson": 0.987, "spearman": 0.8, "ci95": [0.61, 0.999], "n": 4},
            f"{MAIN} (upper half)": {"pearson": -0.25, "spearman": -0.5, "ci95": [-0.9, 0.7], "n": 3},
            "rewardbench2/math~bon/average": {"pearson": 0.71, "spearman": 0.7, "ci95": [0.2, 0.9], "n": 4},
        },
        "ppo": [
            run
            | {
                "id": "ppo-up",
                "name": "up",
                "rm": "rm-best",
                "best_average": 0.55,
                "best_step": 10,
                "last_average": 0.55,
                "checkpoints": rise,
            },
            run
            | {"id": "ppo-down", "name": "down", "rm": "rm-flipped", "rm_base": "ceres"}
            | {"best_average": 0.45, "best_step": 0, "last_average": 0.35, "checkpoints": fall},
        ],
        "notes": [NOTE],
    }


class Reader(HTMLParser):
    """Collects what a browser would see: text, attributes, and the number of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.attributes, self.tags, self.open = [], [], [], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open not in ("script", "style"):
            self.text.append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def printed(given: dict[str, Any], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_report(given, Path("/runs/demo/report/report.html"), console)
    return console.export_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(summary(), tmp_path_factory.mktemp("study") / "deep" / "report").parent


def test_pictures_name_their_axes_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: set[str] = set()
    save = Figure.savefig

    def labelled(figure: Figure, path: Path, **settings: Any) -> None:
        labels.update(label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()))
        save(figure, path, **settings)

    monkeypatch.setattr(Figure, "savefig", labelled)
    given = summary()
    given["reward_models"][0]["details"] = {"curves": {"loss": [[1, 0.7], [2, 0.6]]}}
    out = write_report(given, tmp_path).parent
    assert {"training.png", "ppo.png", "losses.png", *COURSES} <= {file.name for file in out.glob("*.png")}
    assert "training step" in labels
    assert not [label for label in labels if "/step" in label]


def test_a_report_is_these_files_and_no_leftovers(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted([*FILES, *COURSES])


def test_summary_json_holds_the_summary(written: Path) -> None:
    assert json.loads((written / "summary.json").read_text()) == summary()


def test_every_png_decodes_and_is_drawn_on(written: Path) -> None:
    for name in [*PNGS, *COURSES]:
        with Image.open(written / name) as image:
            assert image.width > 800, name
            colours = image.convert("RGB").getcolors(1 << 24)
            assert colours is not None
            assert len(colours) > 100, name


def test_the_page_says_the_result_in_points_and_the_note_right_after_it(written: Path) -> None:
    text = " ".join(read_page(written / "report.html").text)
    assert "4 reward models span RewardBench 2 overall from 10.0 to 84.5, 74.5 points apart." in text
    assert "Pearson r = 0.99 (95% interval 0.61 to 1.00, n = 4; Spearman 0.80)" in text
    assert "Over the upper half of the reward models r = -0.25 (95% interval -0.90 to 0.70, n = 3)." in text
    # 0.72245 - 0.45 = 0.27245
    assert "Reranking with best takes the policy from 45.0 to 72.2 (best of 16, +27.2 points" in text
    assert "PPO with best (same lineage) rose from 45.0 to 55.0 at step 10 (+10.0 points) and ended at 55.0." in text
    assert "PPO with flipped (other lineage) never rose above its start of 45.0 and ended at 35.0." in text
    assert text.index("never rose") < text.index(NOTE) < text.index("Does the benchmark predict")


def test_reward_models_that_are_best_alike_are_all_named() -> None:
    given = summary()
    for model in given["reward_models"][:2]:
        model["bon"] = {"average": 0.8}
    assert "Reranking with any of best, middle takes the policy from 45.0 to 80.0" in result(read(given))


def test_the_label_of_a_policy_keeps_the_end_of_its_name_and_its_lineage() -> None:
    given = summary()
    given["ppo"][0]["name"] = "smollm2-135m-by-smollm2-135m-ultrafeedback-helpsteer-lr3e-5-e1"
    label = run_label(read(given).runs[0])
    assert label.startswith("smollm2-135m-by-")
    assert label.endswith("lr3e-5-e1, same lineage")
    assert len(label) == 60


def test_the_page_loads_nothing_from_a_network_and_holds_plotly_once(written: Path) -> None:
    reader = read_page(written / "report.html")
    loads = [(tag, name, value) for tag, name, value in reader.attributes if name in ("src", "href", "srcset", "data", "action")]
    loads = [load for load in loads if not load[2].startswith("#")]  # places in the page itself
    assert {value for _, _, value in loads} == {"data:,", *(name for name in FILES if name.endswith((".csv", ".md", ".json")))}
    assert not [value for _, name, value in reader.attributes if name == "style" and "url(" in value]
    page = (written / "report.html").read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert "@import" not in page.split("<style>")[1].split("</style>")[0]


def test_the_tables_of_the_page_stand_in_order_of_the_overall_score(written: Path) -> None:
    text = " ".join(read_page(written / "report.html").text)
    table = text[text.index("Click a head to sort") : text.index("With standard errors")]
    assert table.index(" best ") < table.index(" foreign ") < table.index(" middle ") < table.index(" flipped ")
    assert "84.5" in table


def test_csv_files_keep_full_precision_and_one_row_per_run_or_checkpoint(written: Path) -> None:
    models = read_csv(written / "reward_models.csv")
    assert [row["name"] for row in models] == ["best", "foreign", "middle", "flipped"]
    assert (models[0]["rewardbench2/overall"], models[0]["bon/average@16"], models[3]["control"]) == ("0.8449", "0.72245", "True")
    checkpoints = read_csv(written / "checkpoints.csv")
    assert len(checkpoints) == 4 * 2 + 2 * 3
    assert [row["step"] for row in checkpoints[:2]] == ["10", "20"]
    assert checkpoints[-1]["downstream_average"] == str(0.45 - 10 / 100)
    assert [float(row["gain"]) for row in read_csv(written / "ppo.csv")] == pytest.approx([0.1, 0.0])
    assert [row["ci95_low"] for row in read_csv(written / "correlation.csv")] == ["0.61", "-0.9", "0.2"]


def test_the_markdown_holds_result_and_tables(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert f"> {NOTE}" in text
    assert "| best | skywork | 84.5 |" in text
    assert "| up | best | same lineage | 45.0 | 55.0 | 10 | 55.0 | +10.0 |" in text


def test_the_regression_runs_through_points_that_lie_on_a_line() -> None:
    line = regression(read(summary()))
    assert line is not None
    # average = 30 + overall / 2 in points, from overall 10 to 84.49
    assert line[0] == pytest.approx([10, 84.49])
    assert line[1] == pytest.approx([35, 72.245])


def test_hundreds_of_mixes_and_bases_leave_room_for_the_picture_and_are_counted() -> None:
    models = [reward_model(f"rm {k}", k / 400, 0.5, data=f"a mix with a long name {k}", base=f"base {k % 50}") for k in range(400)]
    study = read(summary() | {"reward_models": models})
    for draw in (benchmark_vs_bon, training):
        figure = draw(study)
        figure.savefig(io.BytesIO())  # matplotlib warns where the layout does not fit, and a warning is an error
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts() if text.get_text().startswith("and ")] == ["and 388 more", "and 38 more"]
        assert figure.axes[0].get_position().height > 0.4


def test_the_terminal_shows_every_column_at_120_and_ends_with_the_path() -> None:
    text = printed(summary(), 120)
    heads = next(line for line in text.splitlines() if line.startswith("reward model "))
    assert heads.split()[2:] == ["Fact", "IF", "Math", "Safe", "Focus", "Ties", "All", "|", "sums", "capitals", "Avg"]
    row = next(line for line in text.splitlines() if line.startswith("best"))
    assert row.split() == ["best", *["84.5"] * 7, "|", "62.2", "82.2", "72.2"]
    assert next(line for line in text.splitlines() if line.startswith("all")).split() == ["all", "0.99", "0.61", "to", "1.00", "4", "0.80"]
    assert next(line for line in text.splitlines() if line.startswith("up ")).split() == [
        "up",
        "same",
        "45.0",
        "55.0",
        "10",
        "55.0",
        "+10.0",
    ]
    assert "flipped *" in text
    assert text.rstrip().endswith("/runs/demo/report/report.html")


@pytest.mark.parametrize("width", [80, 120])
def test_no_row_of_the_terminal_is_broken_when_names_and_tasks_are_long(width: int) -> None:
    given = summary()
    for model in given["reward_models"]:
        model["name"] += "-with-a-name-that-takes-all-the-room-there-is-and-more"
        model["bon"] |= {f"a-long-task-{index}": 0.5 for index in range(4)}
    lines = printed(given, width).splitlines()
    assert max(len(line) for line in lines) <= width
    row = next(line for line in lines if line.startswith("best-with"))
    assert row.rstrip().endswith("72.2")
    heads = next(line for line in lines if line.startswith("reward model ")).split()[2:]
    assert len(heads) == len(set(heads))


def test_an_empty_summary_gives_a_whole_report_that_says_so(tmp_path: Path) -> None:
    page = write_report({}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    text = " ".join(read_page(page).text)
    for gap in ("There are no reward models.", "There are no PPO runs.", "There is no correlation"):
        assert gap in text
    assert read_csv(tmp_path / "ppo.csv") == []
    assert "missing: There are no PPO runs." in printed({}, 120)


def test_where_nobody_asked_for_best_of_n_one_line_says_how_to() -> None:
    unasked = summary()
    for model in unasked["reward_models"]:
        model["bon"] = {}
    said = " ".join(missing(read(unasked)))
    assert "Best-of-N was not measured: reward models rank the pools that hooks.pools names." in said
    assert "incomplete" not in said


def test_a_run_of_best_of_n_alone_misses_no_start_and_asks_nothing_of_a_benchmark(tmp_path: Path) -> None:
    chosen = {"name": "others", "id": "others", "rewardbench2": {}, "bon": {"average": 0.5}}
    alone = {"study": "bon", "reward_models": [chosen], "ppo": []}
    assert not [gap for gap in missing(read(alone)) if "start policy" in gap]
    text = " ".join(read_page(write_report(alone, tmp_path / "one")).text)
    assert "Does the benchmark predict" not in text
    assert "against another" not in text  # there is one score
    text = " ".join(read_page(write_report({**alone, "reward_models": [chosen | {"bon": {"average": 0.5, "sums": 0.5}}]}, tmp_path)).text)
    assert "One score against another" in text
    assert "Does the benchmark predict" not in text


def test_missing_domains_checkpoints_and_averages_are_named_with_their_reason(tmp_path: Path) -> None:
    given = summary()
    first, second, third, _ = given["reward_models"]
    first["rewardbench2"] |= {"ties": None, "overall": None, "rewardbench2_reason": "the benchmark has no Ties rows"}
    second["bon"] = {"sums": None, "average": float("nan")}
    del third["checkpoints"], third["rewardbench2"], given["policy"]
    given["ppo"][0] |= {"best_average": None, "checkpoints": None}
    gaps = missing(read(given))
    assert "RewardBench 2 lacks overall, Ties for middle: the benchmark has no Ties rows" in gaps
    assert "RewardBench 2 lacks any score for foreign." in gaps
    assert "Best-of-N is incomplete for best." in gaps
    assert "No checkpoints were recorded for foreign." in gaps
    assert "The start policy has no downstream average." in gaps
    assert "No checkpoints were recorded for PPO: up." in gaps
    assert "PPO with best (same lineage) has no downstream average to compare." in result(read(given))
    text = " ".join(read_page(write_report(given, tmp_path)).text)
    assert all(gap in text for gap in gaps)
    # NaN is no JSON: it becomes null, and strict parsers read the file.
    saved = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert saved["reward_models"][1]["bon"]["average"] is None
    assert read_csv(tmp_path / "reward_models.csv")[0]["bon/average@16"] == ""


def test_a_study_without_a_domain_compares_by_a_labelled_mean_everywhere(tmp_path: Path) -> None:
    given = summary()
    key, label = "mean_of_5_no_precise_if", "mean of 5: no Precise IF"
    given["score"] = key
    for model in given["reward_models"]:
        scores = model["rewardbench2"]
        scores |= {key: scores["overall"], "overall": None, "precise_if": None}
        model["checkpoints"] = [{"step": 10, f"rewardbench2/{key}": scores[key], "bon/average@16": 0.5}]
    given["correlation"] = {link.replace("overall", key): value for link, value in given["correlation"].items()}
    write_report(given, tmp_path)
    page, markdown = " ".join(read_page(tmp_path / "report.html").text), (tmp_path / "report.md").read_text()
    assert f"RewardBench 2 {label} from 10.0 to 84.5" in page
    assert f"RewardBench 2 {label} from 10.0 to 84.5" in markdown
    rows = read_csv(tmp_path / "reward_models.csv")
    assert (rows[0][f"rewardbench2/{key}"], rows[0]["rewardbench2/overall"]) == ("0.8449", "")
    shown = printed(given, 120)
    assert f"Mean = {label}" in shown
    assert f"RewardBench 2 {label} ~ best of 16 average" in shown
    assert "Pearson" in shown


def test_hostile_names_stay_text_everywhere(written: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script><img src=//x.io/a.png> [bold]$\\frac$ _a_ | \u6f22"
    given = summary()
    plain_tags = sorted(read_page(written / "report.html").tags)
    given["study"] = f"</title>{hostile}"
    given["notes"] = [hostile]
    for number, model in enumerate(given["reward_models"]):
        model["name"], model["data"], model["base"] = f"{hostile}{number}", f"_{hostile}", hostile.replace("/", "")
        model["bon"] |= {hostile: 0.5}
    for run in given["ppo"]:
        run["name"] = hostile
    reader = read_page(write_report(given, tmp_path / "hostile"))
    # Same elements but for the cells of the added task: one per RM and footer row, and a head with its button.
    assert sorted(tag for tag in reader.tags if tag not in ("td", "th", "button")) == [
        t for t in plain_tags if t not in ("td", "th", "button")
    ]
    assert f"{hostile}0" in "".join(reader.text)
    # JSON in a script must not close it.
    page = (tmp_path / "hostile" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script>alert(1)") == 0
    assert hostile in printed(given, 400)
    assert read_csv(tmp_path / "hostile" / "reward_models.csv")[0]["name"] == f"{hostile}1"


def test_an_interrupted_report_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(summary(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(study: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("evalhooks.report.render_page", stop)
    changed = copy.deepcopy(summary()) | {"study": "changed"}
    with pytest.raises(KeyboardInterrupt):
        write_report(changed, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_speaks_against_a_run_s_reward_model_stands_under_its_table_everywhere(tmp_path: Path) -> None:
    given = summary()
    up, down = given["ppo"]
    up |= {"same_lineage": "unknown", "warnings": ["the reward model was trained on <b>other</b> prompts."], "status": "running"}
    down |= {"same_lineage": "no", "stopped_because": "downstream/average fell"}
    cautions = [
        "up: the reward model was trained on <b>other</b> prompts.",
        "up is not finished (running); its figures are those of its checkpoints so far.",
        "down was stopped for over-optimisation: downstream/average fell.",
    ]
    text = "".join(read_page(write_report(given, tmp_path)).text)
    flat = " ".join(printed(given, 400).split())
    notes = [line.removeprefix("> ") for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("> ")]
    assert notes == [NOTE, cautions[0].replace("<", "&lt;"), *cautions[1:]]
    for caution in cautions:
        assert text.index("PPO run") < text.index(caution) < text.rindex("One run")
        assert caution in flat
    runs = read(given).runs
    assert [run.lineage for run in runs] == ["unknown lineage", "other lineage"]


def test_the_summary_given_is_not_changed() -> None:
    given = summary()
    terminal_table(given)
    assert given == summary()


@pytest.mark.parametrize("mixes", [("tulu", "tulu", "tulu", "tulu"), ("tulu", "skywork", "tulu", "skywork")])
def test_a_run_has_one_colour_in_all_charts_and_training_accuracy_is_in_points(mixes: tuple[str, ...]) -> None:
    given = summary()
    for model, mix in zip(given["reward_models"], mixes, strict=True):
        model |= {"data": mix, "details": {"curves": {"loss": [(1, 0.7), (2, 0.6)], "accuracy": [(1, 0.5), (2, 0.75)]}}}
    for run in given["ppo"]:
        run["details"] = {"curves": {"kl": [(1, 0.0), (2, 0.5)]}}
    study = read(given)
    loss, accuracy, kl = losses(study).axes[:3]
    assert (accuracy.get_title(loc="left") or accuracy.get_title()) == "Reward models: accuracy (points)"
    assert np.asarray(accuracy.lines[0].get_ydata()).tolist() == [50.0, 75.0]
    assert np.asarray(loss.lines[0].get_ydata()).tolist() == [0.7, 0.6]
    drawn, learned = training(study).axes[0].lines, ppo(study).axes[1].lines
    assert [line.get_color() for line in loss.lines] == [line.get_color() for line in drawn]
    assert [line.get_color() for line in kl.lines] == [line.get_color() for line in learned]
