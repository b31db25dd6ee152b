"""The report as one HTML page that holds everything it shows: style, script, plotly.js once, and the figures."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from core.text import duration
from evalhooks.report import interactive
from evalhooks.report.charts import run_label
from evalhooks.report.details import COST_HEADS, cost_rows, differing, held_out_text, runs_of, samples_html, warnings_of, with_error
from evalhooks.report.facts import RewardModel, Study, number, points
from evalhooks.report.prose import best_for_bon, best_run, cautions, interval, missing, result, spread
from evalhooks.report.scores.sections import html
from evalhooks.report.style import POLICY, SCRIPT, STYLE
from evalhooks.report.tables import PPO_HEADS, ppo_cells
from evalhooks.rewardbench.domains import DOMAINS


def render_page(study: Study, folder: Path) -> str:
    """The whole page; the pictures of the findings lie in `folder`."""
    figures = interactive.figures(study)
    charts = interactive.html(figures, list(figures))
    plotly = f"<script>{get_plotlyjs()}</script>" if charts else ""
    body = "\n".join(
        [
            _head(study),
            _benchmark(study, charts),
            _figure("Which skills does each reward model know?", "domains", charts, "No reward models.", _MODELS_TEXT),
            _models(study),
            html(study.findings, folder, without=("Reward models",)) if study.findings else "",
            _figure("Over training", "training", charts, "No checkpoints of reward models were recorded.", _TRAINING_TEXT),
            _figure("Loss", "losses", charts, "No run logged a loss.", _LOSS_TEXT),
            _ppo(study, charts),
            _samples(study),
            _settings(study),
            _provenance(study),
        ]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(study.name)}: rewardloop report</title>
<style>{STYLE}</style>
{plotly}
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


_MODELS_TEXT = "Best overall first. Every cell is points of 100; a random choice gets 25 in a domain of four completions."
_COURSE_TEXT = (
    "What PPO maximises, the reward model's score, beside what is wanted. Where the score goes on rising and the downstream average does "
    "not, the policy has found what the reward model gets wrong; its accuracy on the policy's own answers falls. Star: best checkpoint."
)
_LOSS_TEXT = "As logged while training, on the step axis of training."
_TRAINING_TEXT = "Benchmark and downstream use of the same checkpoints, on one step axis. Dashed: controls."


def _head(study: Study) -> str:
    count, took = len(study.models), "" if study.wall_s is None else f", {duration(study.wall_s)}"
    parts = [
        f'<header><p class="kicker">rewardloop study</p><h1>{escape(study.name)}</h1>',
        f'<p class="meta">{count} reward model{"" if count == 1 else "s"}, {len(study.runs)} PPO run{"" if len(study.runs) == 1 else "s"}'
        f"{took}</p></header>",
        f'<div class="tiles">{"".join(_tiles(study))}</div>',
        f'<p class="result">{escape(result(study))}</p>',
    ]
    parts += [f'<p class="note">{escape(note)}</p>' for note in [*study.notes, *warnings_of(study)]]
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
    if (ends := spread(study)) is not None:
        yield _tile("RewardBench 2 spread", points(ends[1] - ends[0]), f"from {points(ends[0])} to {points(ends[1])}")
    rm, start = best_for_bon(study), study.start.get("average")
    if rm is not None and rm.bon_average is not None and start is not None:
        change = f"{points(start)} to {points(rm.bon_average)} with {rm.name}"
        yield _tile(f"{study.bon_name.capitalize()} gain", points(rm.bon_average - start, sign=True), change)
    if (run := best_run(study.runs)) is not None:
        yield _tile("PPO gain, best checkpoint", points(run.gain, sign=True), f"{points(run.start)} to {points(run.best)} with {run.rm}")


def _tile(title: str, value: str, rest: str) -> str:
    return f'<div class="tile"><p>{escape(title)}</p><strong>{_minus(value)}</strong><p>{escape(rest)}</p></div>'


def _minus(text: str) -> str:
    """A true minus sign and a quiet dash for the missing, in cells that hold a number only."""
    return "\u2013" if text == "n/a" else escape(text).replace("-", "\u2212")


def _figure(title: str, name: str, charts: Mapping[str, str], absent: str, text: str = "") -> str:
    chart = charts.get(name) or f'<p class="absent">{escape(absent)}</p>'
    caption = f'<p class="caption">{escape(text)}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{caption}{chart}</section>"


def _benchmark(study: Study, charts: Mapping[str, str]) -> str:
    chart = charts.get("benchmark") or '<p class="absent">No reward model has both a RewardBench 2 and a best-of-N score.</p>'
    forest = f"<h3>Which domain predicts it</h3>{charts['links']}" if "links" in charts else ""
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
    table = _table(heads, rows, words=1) if rows else '<p class="absent">No correlation was computed.</p>'
    caption = (
        "Each point is a reward model; the line is the least-squares fit. Dashed: the policy alone, and the best that its answers allow."
    )
    return (
        f'<section><h2>Does the benchmark predict {escape(study.bon_name)}?</h2><p class="caption">{escape(caption)}</p>{chart}{forest}'
        f"<details><summary>All correlations</summary>{table}</details></section>"
    )


def _models(study: Study) -> str:
    if not study.models:
        return '<section><h2>Reward models</h2><p class="absent">No reward models in this study.</p></section>'
    pairwise = any(rm.pairwise.get("overall") is not None for rm in study.models)
    heads = ["Reward model", "Data", "Lineage", study.score_title, *DOMAINS.values(), *["RB 1"] * pairwise, *study.tasks, "Average"]
    rows, controls = [], []
    for rm in study.models:
        cells = [rm.name, rm.data, rm.base or "n/a", points(rm.overall)]
        cells += [points(rm.benchmark.get(key)) for key in DOMAINS] + [points(rm.pairwise.get("overall"))] * pairwise
        rows.append([*cells, *(points(rm.bon.get(task)) for task in study.tasks), points(rm.bon_average)])
        controls.append(rm.control)
    before = len(heads) - len(study.tasks) - 1
    foot = [
        [label, *[""] * (before - 1), *(points(scores.get(task)) for task in (*study.tasks, "average"))]
        for label, scores in (("Start policy", study.start), ("Random pick", study.random), ("Oracle", study.oracle))
        if scores
    ]
    spans = [("", 3), ("RewardBench 2", 7), *[("", 1)] * pairwise, (study.bon_name.capitalize(), len(study.tasks) + 1)]
    table = _table(heads, rows, words=3, foot=foot, spans=spans, controls=controls)
    error_heads = ["Reward model", "Held-out accuracy", study.score_title, *DOMAINS.values()]
    errors = _table(error_heads, [_errors(rm) for rm in study.models], words=1)
    return (
        f'<section><h2>Reward models</h2><p class="caption">Click a head to sort. Controls are in italics.</p>{table}'
        f"<details><summary>With standard errors, and held-out accuracy</summary>{errors}</details></section>"
    )


def _errors(rm: RewardModel) -> list[str]:
    """The scores with one standard error each: of the choice of prompts, or of pairs."""
    found = rm.details.get("errors") or {}
    return [rm.name, held_out_text(rm), *(with_error(rm.benchmark.get(key), found.get(key)) for key in (rm.score_key, *DOMAINS))]


def _samples(study: Study) -> str:
    """What runs answered or got most wrong at their best checkpoints."""
    parts = [(run.name, "".join(samples_html(run))) for run in runs_of(study)]
    shown = "".join(f"<h3>{escape(name)}</h3>{html}" for name, html in parts if html)
    if not shown:
        return ""
    text = "Answers of policies to fixed prompts, and the rows that reward models get most wrong. All of them: samples/ in a run's folder."
    return f'<section><h2>Samples</h2><p class="caption">{text}</p>{shown}</section>'


def _settings(study: Study) -> str:
    """The settings in which runs of one kind differ, and what the runs took."""
    parts: list[str] = []
    for title, runs in (("reward models", study.models), ("PPO runs", study.runs)):
        keys, rows = differing(runs)
        if keys:
            table = _table(["Run", *keys], [[run.name, *row] for run, row in zip(runs, rows, strict=True)], words=len(keys) + 1)
            parts.append(f"<h3>In which {title} differ</h3>{table}")
    cost = _table(COST_HEADS, cost_rows(study), words=4) if runs_of(study) else ""
    return f"<section><h2>Settings and cost</h2>{''.join(parts)}<h3>Cost</h3>{cost}</section>" if cost else ""


def _ppo(study: Study, charts: Mapping[str, str]) -> str:
    text = "Stars mark the best checkpoint, dashed lines the start. A rising RM score under a falling average is over-optimisation."
    absent = "No PPO checkpoints were recorded." if study.runs else "No PPO runs in this study."
    chart = _figure("PPO", "ppo", charts, absent, text if "ppo" in charts else "")
    table = _table([head[0].upper() + head[1:] for head in PPO_HEADS], ppo_cells(study), words=3) if study.runs else ""
    parts = [chart.removesuffix("</section>"), table]
    parts += [f'<p class="note">{escape(caution)}</p>' for run in study.runs for caution in cautions(run)]
    courses = [(run, charts[f"course-{number}"]) for number, run in enumerate(study.runs, 1) if f"course-{number}" in charts]
    if courses:
        parts.append(f'<h3>Proxy and truth</h3><p class="caption">{escape(_COURSE_TEXT)}</p>')
    # Open from the start: plotly would draw into a folded part as if it had no width.
    parts += [f"<details open><summary>{escape(run_label(run))}</summary>{drawn}</details>" for run, drawn in courses]
    return "".join(parts) + "</section>"


def _provenance(study: Study) -> str:
    """Which run every number came from."""
    rows = [
        ["RM", rm.name, rm.id or "n/a", rm.base or "n/a", rm.data, *("n/a" if v is None else f"{v:g}" for v in (rm.lr, rm.epochs, rm.seed))]
        for rm in study.models
    ]
    rows += [["PPO", run.name, run.id or "n/a", run.policy_base or "n/a", run.rm, "n/a", "n/a", "n/a"] for run in study.runs]
    if study.policy_id:
        rows.insert(0, ["Policy", "start policy", study.policy_id, study.policy_lineage or "n/a", *["n/a"] * 4])
    files = ["reward_models.csv", "checkpoints.csv", "correlation.csv", "ppo.csv", "report.md", "summary.json"]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    table = _table(["Kind", "Name", "Run id", "Base", "Data or RM", "LR", "Epochs", "Seed"], rows, words=5)
    caption = f'<p class="caption">Run ids name folders on disk. The same numbers as files: {links}.</p>'
    return f"<section><h2>Provenance</h2>{caption}{table}</section>"


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int,
    foot: Sequence[Sequence[str]] = (),
    spans: Sequence[tuple[str, int]] = (),
    controls: Sequence[bool] = (),
) -> str:
    """A sortable table whose first `words` columns are text and whose others are numbers."""

    def line(cells: Sequence[str], attribute: str = "") -> str:
        marked = (f"<td>{escape(cell)}</td>" if i < words else f'<td class="n">{_minus(cell)}</td>' for i, cell in enumerate(cells))
        return f"<tr{attribute}>{''.join(marked)}</tr>"

    groups = "".join(f'<th class="group" colspan="{width}">{escape(text)}</th>' for text, width in spans)
    top = f"<tr>{groups}</tr>" if groups else ""
    buttons = "".join(
        f'<th class="{"w" if i < words else "n"}" scope="col"><button type="button">{escape(head)}</button></th>'
        for i, head in enumerate(heads)
    )
    flags = [' class="control"' if control else "" for control in controls] or [""] * len(rows)
    body = "".join(line(row, flag) for row, flag in zip(rows, flags, strict=True))
    end = f"<tfoot>{''.join(line(row) for row in foot)}</tfoot>" if foot else ""
    return f'<div class="scroll"><table><thead>{top}<tr class="sort">{buttons}</tr></thead><tbody>{body}</tbody>{end}</table></div>'
