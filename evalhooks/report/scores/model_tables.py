"""The sections with a line per reward model or file: all of them, the paper's tables, published numbers, shared prompts, protocols."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalhooks.analysis.columns import Columns, columns_in
from evalhooks.analysis.paper_tables import PPO_TRIES, TRIES
from evalhooks.analysis.table import error_column
from evalhooks.report.scores.section import Section, headline, number

Findings = Mapping[str, Any]

_FACTS = {
    "base": "Base",
    "data": "Data",
    "lr": "Learning rate",
    "epochs": "Epochs",
    "seed": "Seed",
    "group": "Group",
    "model": "Reward model",
    "reward model": "Reward model",
    "judge": "Judge",
    "asked for": "Asked for",
    "counts": "Counts",
    TRIES: "Tries",
    PPO_TRIES: "PPO tries",
}
"""Heads of what is known of a reward model beside its scores."""
_WORDS = tuple(_FACTS[key] for key in ("base", "data", "group", "model", "judge", "asked for", "counts"))


def models(found: Findings) -> Section:
    """All reward models, the main results first."""
    known = columns_in(found)
    columns = list(dict.fromkeys([*found["benchmarks"][:1], *found["downstream"], *found["benchmarks"]]))
    facts = [key for key in ("base", "data", "lr", "epochs", "seed", "group") if any(key in m["facts"] for m in found["models"])]
    best = {
        column: max((m["scores"][column] for m in found["models"] if column in m["scores"] and not m["control"]), default=None)
        for column in columns
    }
    rows, pale = [], []
    for model in found["models"]:
        rows.append((model["name"], *(_cell(found, model, c, best[c]) for c in columns), *(model["facts"].get(key, "") for key in facts)))
        main, top = model["scores"].get(columns[0]), best[columns[0]]
        band = (found["seed_noise"].get(columns[0]) or {}).get("band")
        pale.append(band is not None and main is not None and top is not None and top - band <= main < top)
    said = ("Grey: within seed noise of the best; ~ marks such a score in its column.",) if any(found["seed_noise"].values()) else ()
    heads = ("Reward model", *map(known.name, columns), *(_FACTS[key] for key in facts))
    return Section(title="Reward models", sentences=said, heads=heads, words=_WORDS, rows=tuple(rows), pale=tuple(pale))


def _cell(found: Findings, model: Mapping[str, Any], column: str, best: float | None) -> str:
    value, columns = model["scores"].get(column), columns_in(found)
    if value is None:
        return "n/a"
    band = (found["seed_noise"].get(column) or {}).get("band")
    near = band is not None and best is not None and best - band <= value < best
    named = error_column(column, model["scores"])
    error = f" ± {columns.value(column, model['scores'][named])}" if named else ""
    return f"{columns.value(column, value)}{error}{' ~' if near else ''}"


def paper_tables(found: Findings) -> Iterator[Section]:
    """The paper's tables; a star marks the best reward model of a column of scores."""
    columns, policies = columns_in(found), {policy["name"] for policy in found["policies"]}
    for title, rows in found["tables"].items():
        heads = tuple(head for head in rows[0] if any(row[head] != "" for row in rows))
        best = {
            head: max((row[head] for row in rows if isinstance(row[head], float) and row[heads[0]] not in policies), default=None)
            for head in heads
        }
        cells = tuple(tuple(_starred(columns, head, row[head], best[head]) for head in heads) for row in rows)
        shown = tuple(_FACTS.get(head) or columns.name(head) for head in heads)
        yield Section(title=title, sentences=tuple(_remarks(heads)), heads=shown, words=_WORDS, rows=cells)


def _remarks(heads: Sequence[str]) -> Iterator[str]:
    yield "A star marks the best of a column."
    if TRIES in heads:
        yield "Tries: of how many reward models this is the best; as these scores chose it, they flatter it."
    if PPO_TRIES in heads:
        yield "PPO tries: among how many checkpoints, over all settings, the PPO result was chosen."


def _starred(columns: Columns, head: str, value: Any, best: float | None) -> str:
    if isinstance(value, float):
        return f"{columns.value(head, value)}{' *' if value == best else ''}"
    return "n/a" if value is None else str(value)


def overlap(found: Sequence[Mapping[str, Any]]) -> Section:
    """The prompts that a benchmark shares with the tasks; examples stand apart, where they make no row tall."""
    rows = tuple(
        (entry["task"], f"{entry['shared']} of {entry['of']}", str(entry["equal"]), str(entry["num_task_prompts"]), entry["benchmark"])
        for entry in found
    )
    said = (
        "A benchmark prompt is shared if more than half of its words lie in 8-grams that a task's prompt has too, as where both are made "
        "by one template; it is equal if a task's prompt is the same up to case and spaces."
    )
    asides = tuple(
        (
            f"Shared with {entry['task']}",
            tuple(f"{_quoted(one['benchmark'])}, in the task {_quoted(one['task'])}" for one in entry["examples"]),
        )
        for entry in found
        if entry["examples"]
    )
    heads = ("Task", "Shared prompts", "Equal", "Prompts of the task", "Benchmark")
    return Section(
        title="Prompts that benchmark and tasks share", sentences=(said,), heads=heads, words=("Benchmark",), rows=rows, asides=asides
    )


def _quoted(text: str, most: int = 120) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= most else f'"{line[: most - 3]}..."'


def self_preference(found: Findings) -> Section:
    """Mean inverse ranks of completions by base of the reward model."""
    heads = (
        "Base of the reward model",
        "Preference data",
        "Completions of",
        "Mean inverse rank",
        "Deviation",
        "Mean rank",
        "Reward models",
    )
    rows = tuple(
        (
            cell["base"],
            cell["data"] or "all",
            cell["model"],
            number(cell["inverse_rank"]),
            number(cell["sd"]),
            number(cell["mean_rank"], digits=2),
            str(cell["num_rms"]),
        )
        for cell in found["cells"]
    )
    said = [entry["answer"] for entry in found["preferences"]]
    said.append(f"{found['num_prompts']} prompts; whiskers are the standard deviation over the reward models of a base.")
    if found["left_out"]:
        said.append(f"{found['left_out']} prompts are left out, which some reward model did not score for every completion model.")
    title = "Do reward models prefer their base's own completions?"
    words = ("Preference data", "Completions of")
    return Section(title=title, sentences=tuple(said), heads=heads, words=words, rows=rows, picture="self_preference.png")


def reference(found: Findings) -> Section:
    """Published numbers beside one's own."""
    columns = columns_in(found)
    heads = ("Published in", "What", "Published", "Ours")
    rows: list[tuple[str, ...]] = []
    for source in found["reference"]:
        for key, r in source["pearson"].items():
            rows.append((source["source"], f"r of {columns.link(key)}", number(r), headline(found["correlation"].get(key) or {})))
        for column, standing in source["standing"].items():
            if standing["rank"] is not None and standing["of"]:
                where = f"best {columns.value(column, standing['best'])}, place {standing['rank']} among them"
                theirs = f"{standing['of']} reward models, best {columns.value(column, standing['highest'])}"
                rows.append((source["source"], columns.name(column), theirs, where))
    said = ["As published, by their authors' protocol: beside one's own numbers, never in one correlation with them."]
    said += [source["note"] for source in found["reference"] if source["note"]]
    return Section(title="Published numbers", sentences=tuple(said), heads=heads, words=heads[1:], rows=tuple(rows))


def protocols(found: Findings) -> Section:
    """How scores were measured."""
    rows = []
    for protocol in found["protocols"]:
        own = [model for model in found["models"] if model["protocol"] == protocol]
        cut = sorted({_percent(model["facts"]["truncated"]) for model in own if model["facts"].get("truncated")})
        rows.append((protocol or "not known", str(len(own)), ", ".join(cut) or "n/a"))
    said = "Scores of different protocols are never put into one correlation or picture."
    return Section(title="How it was measured", sentences=(said,), heads=("Protocol", "Reward models", "Texts cut"), rows=tuple(rows))


def _percent(share: str) -> str:
    """A share that a table holds as text; other text stays."""
    try:
        return f"{100 * float(share):.3g}%" if 0 <= float(share) <= 1 else share
    except ValueError:
        return share
