"""The report as one HTML page that holds everything it shows: style, scripts, plotly.js once, and the data of the figures."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from core.text import duration
from evalhooks.report.dashboard.answers import answers
from evalhooks.report.dashboard.biases import biases_of
from evalhooks.report.dashboard.explorer import of_study
from evalhooks.report.dashboard.frame import FIGURES, contents, explorer, figure, panels, scripts, section
from evalhooks.report.dashboard.misjudged import misjudged
from evalhooks.report.dashboard.payload import payload
from evalhooks.report.dashboard.table import minus, table
from evalhooks.report.details import COST_HEADS, cost_rows, differing, held_out_text, runs_of, warnings_of, with_error
from evalhooks.report.facts import RewardModel, Study, number, points
from evalhooks.report.prose import best_for_bon, best_run, cautions, interval, missing, result, spread
from evalhooks.report.scores.sections import html
from evalhooks.report.style import POLICY, page_head
from evalhooks.report.tables import PPO_HEADS, ppo_cells
from evalhooks.rewardbench.domains import DOMAINS

SCRIPTS = ("table.js", "drawing.js", "explore.js", "rows.js", "figures.js", "run.js", "main.js")
"""In the order in which they need each other."""


def render_page(study: Study, *, version: str = "") -> str:
    """The whole page of a study.

    `version` is that of a page that a server keeps up to date: its script asks the server, and nobody else, for a later one.
    """
    found = misjudged([rm.dir for rm in study.models])
    data = payload(study)
    data["explorer"] = of_study(study)
    data["misjudged"] = {"rows": found.rows, "left": found.num_left_out}
    for run, shown in zip(data["runs"], answers(study.runs), strict=True):
        run["answers"] = shown
    policy = f"{POLICY}; connect-src 'self'" if version else POLICY
    return f"""{page_head(study.name, policy=policy)}<body>
{_live(version)}<main>
{_body(study, data, live=bool(version))}
</main>
{scripts(data, SCRIPTS)}</body>
</html>
"""


def _live(version: str) -> str:
    return f'<p id="live" role="status" data-version="{escape(version)}"></p>\n' if version else ""


def _body(study: Study, data: Mapping[str, Any], *, live: bool) -> str:
    analysis = html(study.findings, FIGURES, without=("Reward models",)) if study.findings else ""
    parts = [
        ("models", "Reward models", _models(study)),
        ("benchmark", "Benchmark and use", _compared(study, data["explorer"])),
        ("domains", "Skills", section("domains", "Which skills does each reward model know?", _MODELS_TEXT, figure("domains"))),
        ("training", "Over training", section("training", "Over training", _TRAINING_TEXT, _TRAINING)),
        ("best-of", "Best of N", section("best-of", "Best of N", _BEST_OF_TEXT, figure("best-of-n"))),
        ("ppo", "PPO", _ppo(study)),
        ("run", "One run", _run(study)),
        ("bias", "Biases", _bias(study)),
        ("rows", "Wrong rows", _misjudged(data["misjudged"]["rows"])),
        ("analysis", "Analysis", f'<div id="analysis-section">{analysis}</div>' if analysis else ""),
        ("cost", "Settings and cost", _settings(study)),
        ("provenance", "Provenance", _provenance(study, live=live)),
    ]
    there = [part for part in parts if part[2]]
    return "\n".join([contents([(name, short) for name, short, _ in there]), _head(study), *(text for _, _, text in there)])


MAX_WARNINGS = 3
"""Warnings of runs above which they are folded: a sweep has several each, and its numbers would begin on the third screen of a phone."""

_MODELS_TEXT = "Best overall first. Every cell is points of 100; a random choice gets 25 in a domain of four completions."
_TRAINING_TEXT = "Benchmark and downstream use of the same checkpoints, on one step axis. Dashed: controls."
_BEST_OF_TEXT = (
    "Accuracy of the completion that each reward model picks of N, at its newest checkpoint; of one it is the policy's own. "
    "Dashed: the policy alone, and the oracle."
)
_COURSE_TEXT = (
    "What PPO maximises, the reward model's score, beside what is wanted. Where the score goes on rising and the downstream average does "
    "not, the policy has found what the reward model gets wrong; its accuracy on the policy's own answers falls. Star: best checkpoint."
)
_RUN_TEXT = (
    "Benchmark, downstream and held-out or on-policy accuracy on one step axis; a click on a legend's entry shows or hides its curve."
)
_BIAS_TEXT = (
    "Partial correlation of the reward with a feature of the completions, correctness held fixed: of reward models on the pools, of PPO "
    "runs on the policy's own answers. Above 0 it pays for the feature; pale: less than two standard errors from 0."
)
_ROWS_TEXT = (
    "The rows among the worst of a reward model at some checkpoint, those that most reward models get wrong first. A row opens to its "
    "prompt, its completions with their scores, and its margin at every checkpoint."
)


def _head(study: Study) -> str:
    count, took = len(study.models), "" if study.wall_s is None else f", {duration(study.wall_s)}"
    parts = [
        f'<header><p class="kicker">rewardloop study</p><h1>{escape(study.name)}</h1>',
        f'<p class="meta">{count} reward model{"" if count == 1 else "s"}, {len(study.runs)} PPO run{"" if len(study.runs) == 1 else "s"}'
        f"{took}</p></header>",
        f'<div class="tiles">{"".join(_tiles(study))}</div>',
        f'<p class="result">{escape(result(study))}</p>',
    ]
    warnings = warnings_of(study)
    few = warnings if len(warnings) <= MAX_WARNINGS else []
    parts += [f'<p class="note">{escape(note)}</p>' for note in [*study.notes, *few]]
    if not few and warnings:
        listed = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
        parts.append(f'<details class="note" id="warnings"><summary>Warnings of runs: {len(warnings)}</summary><ul>{listed}</ul></details>')
    if gaps := missing(study):
        parts.append(f'<details class="gaps" open><summary>Missing from this study: {len(gaps)}</summary><ul>')
        parts += [f"<li>{escape(gap)}</li>" for gap in gaps]
        parts.append("</ul></details>")
    return "\n".join(parts)


def _tiles(study: Study) -> Iterable[str]:
    """The four numbers to remember, each with what it rests on."""
    link = study.links.get(study.main_link)
    if link is not None and link.pearson is not None:
        yield _tile("Pearson r, benchmark and use", number(link.pearson), interval(link))
    if (ends := spread(study)) is not None and sum(rm.overall is not None for rm in study.models) > 1:
        yield _tile("RewardBench 2 spread", points(ends[1] - ends[0]), f"from {points(ends[0])} to {points(ends[1])}")
    rm, start = best_for_bon(study), study.start.get("average")
    if rm is not None and rm.bon_average is not None and start is not None:
        change = f"{points(start)} to {points(rm.bon_average)} with {rm.name}"
        yield _tile(f"{study.bon_name.capitalize()} gain", points(rm.bon_average - start, sign=True), change)
    if (run := best_run(study.runs)) is not None:
        yield _tile("PPO gain, best checkpoint", points(run.gain, sign=True), f"{points(run.start)} to {points(run.best)} with {run.rm}")


def _tile(title: str, value: str, rest: str) -> str:
    return f'<div class="tile"><p>{escape(title)}</p><strong>{minus(value)}</strong><p>{escape(rest)}</p></div>'


_TRAINING = panels(figure("training-benchmark", "RewardBench 2"), figure("training-bon", "Best of N")) + (
    '<p class="caption" id="note-training"></p>'
)


def _compared(study: Study, scores: Mapping[str, Any]) -> str:
    """Scores against each other; empty where there are no two. The question is one only where there are scores of both kinds."""
    if len(scores["columns"]) < 2:
        return ""
    asked = scores["benchmarks"] and scores["downstream"]
    title = f"Does the benchmark predict {study.bon_name}?" if asked else "One score against another"
    return explorer(scores, title, _correlations(study))


def _correlations(study: Study) -> str:
    """The main correlations with their parts, as a table; CSV and JSON have them all."""
    rows = [
        [
            link.key,
            number(link.pearson),
            number(link.spearman),
            number(link.low),
            number(link.high),
            "n/a" if link.n is None else str(link.n),
        ]
        for link in study.links.values()
    ]
    heads = ["Benchmark ~ downstream", "Pearson r", "Spearman", "95% low", "95% high", "n"]
    return f"<details><summary>All correlations</summary>{table(heads, rows, words=1)}</details>" if rows else ""


def _models(study: Study) -> str:
    if not study.models:
        return section("models", "Reward models", "", '<p class="absent">No reward models in this study.</p>')
    tasks, pairwise = study.tasks, any(rm.pairwise.get("overall") is not None for rm in study.models)
    setup = ["Data", "Lineage", "LR", "Epochs", "Seed"]
    heads = ["Reward model", *setup, study.score_title, *DOMAINS.values(), *["RB 1"] * pairwise, *tasks, "Average"]
    rows: list[list[str]] = []
    for rm in study.models:
        cells = [rm.name, rm.data, rm.base or "n/a", *("n/a" if v is None else f"{v:g}" for v in (rm.lr, rm.epochs, rm.seed))]
        cells += [points(rm.overall), *(points(rm.benchmark.get(key)) for key in DOMAINS), *[points(rm.pairwise.get("overall"))] * pairwise]
        rows.append([*cells, *(points(rm.bon.get(task)) for task in tasks), points(rm.bon_average)])
    before = len(heads) - len(tasks) - 1
    foot = [
        [label, *[""] * (before - 1), *(points(scores.get(task)) for task in (*tasks, "average"))]
        for label, scores in (("Start policy", study.start), ("Random pick", study.random), ("Oracle", study.oracle))
        if scores
    ]
    spans = [("", 1 + len(setup)), ("RewardBench 2", 7), *[("", 1)] * pairwise, (study.bon_name.capitalize(), len(tasks) + 1)]
    controls = [rm.control for rm in study.models]
    shown = table(heads, rows, words=3, name="models", letter="m", foot=foot, spans=spans, controls=controls)
    error_heads = ["Reward model", "Held-out accuracy", study.score_title, *DOMAINS.values()]
    errors = table(error_heads, [_errors(rm) for rm in study.models], words=1)
    text = (
        "Scores are those of the last checkpoint. Click a head to sort, a name to see its curves. Figures show the reward models that the "
        "filter leaves. Controls are in italics."
    )
    details = f"<details><summary>With standard errors, and held-out accuracy</summary>{errors}</details>"
    return section("models", "Reward models", text, shown, details)


def _errors(rm: RewardModel) -> list[str]:
    """The scores with one standard error each: of the choice of prompts, or of pairs."""
    found = rm.details.get("errors") or {}
    return [rm.name, held_out_text(rm), *(with_error(rm.benchmark.get(key), found.get(key)) for key in (rm.score_key, *DOMAINS))]


def _run(study: Study) -> str:
    """One run at a time, chosen from a list or by its name in a table."""
    if not runs_of(study):
        return ""
    choice = '<div class="controls"><label for="run-choice">Run<select id="run-choice"></select></label></div>'
    course = f'<p class="caption policy-only">{escape(_COURSE_TEXT)}</p>'
    first = panels(figure("run-scores", "Scores"), figure("run-distance", "Distance and reward", "policy-only"))
    second = panels(figure("course-steps", "Proxy and truth over training"), figure("course-kl", "Against the distance from the start"))
    proxy = f'<div class="policy-only">{second}</div>'
    curves = panels(figure("run-curves", "Training"), figure("run-biases", "What the reward pays for beside correctness"))
    return section("run", "One run", _RUN_TEXT, choice, first, course, proxy, curves, '<div id="run-answers"></div>')


def _bias(study: Study) -> str:
    """What rewards pay for beside correctness, at the newest checkpoint that says it; nothing where nothing was measured."""
    rows = [(run.name, newest) for run in runs_of(study) if (newest := biases_of(run))]
    keys = list(dict.fromkeys(key for _, found in rows for key in found))
    if not keys:
        return ""
    cells = [[name, *(_with_sign(found.get(key)) for key in keys)] for name, found in rows]
    shown = table(["Run", *(key.replace("_", " ") for key in keys)], cells, words=1, name="biases")
    return section("bias", "Biases", _BIAS_TEXT, figure("bias"), f"<details><summary>With standard errors</summary>{shown}</details>")


def _with_sign(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "n/a"
    value, error = found
    return f"{value:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def _misjudged(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        text = "The folders of the runs hold no samples of reward models, or are not there."
        return section("rows", "What reward models get wrong", "", f'<p class="absent">{text}</p>')
    controls = (
        '<div class="controls"><label for="rows-model">Reward model<select id="rows-model"><option value="">all</option></select></label>'
        '<label for="rows-domain">Domain<select id="rows-domain"><option value="">all</option></select></label>'
        '<label for="rows-words">Words in it<input id="rows-words" type="search" autocomplete="off"></label></div>'
    )
    return section("rows", "What reward models get wrong", _ROWS_TEXT, controls, '<div id="rows"></div>')


def _settings(study: Study) -> str:
    """The settings in which runs of one kind differ, and what the runs took."""
    parts: list[str] = []
    for title, runs in (("reward models", study.models), ("PPO runs", study.runs)):
        keys, rows = differing(runs)
        if keys:
            shown = table(["Run", *keys], [[run.name, *row] for run, row in zip(runs, rows, strict=True)], words=len(keys) + 1)
            parts.append(f"<h3>In which {title} differ</h3>{shown}")
    cost = table(COST_HEADS, cost_rows(study), words=4) if runs_of(study) else ""
    return section("cost", "Settings and cost", "", *parts, f"<h3>Cost</h3>{cost}") if cost else ""


def _ppo(study: Study) -> str:
    if not study.runs:
        return section("ppo", "PPO", "", '<p class="absent">No PPO runs in this study.</p>')
    text = "Stars mark the best checkpoint, dashed lines the start. A rising RM score under a falling average is over-optimisation."
    heads = [head[0].upper() + head[1:] for head in PPO_HEADS]
    parts = [table(heads, ppo_cells(study), words=3, name="policies", letter="p")]
    parts += [f'<p class="note">{escape(caution)}</p>' for run in study.runs for caution in cautions(run)]
    titles = (
        ("downstream", "Downstream"),
        ("accuracy", "On-policy accuracy of the reward model"),
        ("score", "RM score"),
        ("kl", "KL to the reference"),
    )
    parts.append(panels(*(figure(f"ppo-{name}", title) for name, title in titles)))
    return section("ppo", "PPO", text, *parts, '<p class="caption" id="note-ppo"></p>')


def _provenance(study: Study, *, live: bool) -> str:
    """Which run every number came from; the page of a server has no files beside it."""
    rows = [
        ["RM", rm.name, rm.id or "n/a", rm.base or "n/a", rm.data, *("n/a" if v is None else f"{v:g}" for v in (rm.lr, rm.epochs, rm.seed))]
        for rm in study.models
    ]
    rows += [["PPO", run.name, run.id or "n/a", run.policy_base or "n/a", run.rm, "n/a", "n/a", "n/a"] for run in study.runs]
    if study.policy_id:
        rows.insert(0, ["Policy", "start policy", study.policy_id, study.policy_lineage or "n/a", *["n/a"] * 4])
    files = ["reward_models.csv", "checkpoints.csv", "correlation.csv", "ppo.csv", "report.md", "summary.json"]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    shown = table(["Kind", "Name", "Run id", "Base", "Data or RM", "LR", "Epochs", "Seed"], rows, words=5)
    beside = "" if live else f" The same numbers as files: {links}."
    caption = f'<p class="caption">Run ids name folders on disk.{beside}</p>'
    return section("provenance", "Provenance", "", caption, shown)
