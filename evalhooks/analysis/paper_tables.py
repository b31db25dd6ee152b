"""The paper's tables from one's own scores: 3, 4, 5, 7 and 8, and judges as in appendix G, of RewardBench 2 (Malik et al. 2025).

Each is a list of rows (mappings from column to cell), empty where the table has no reward models for it. Where a row stands for the
best of several, `tries` says of how many: it was chosen by the scores that it is shown with, which flatters it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalhooks.analysis.table import Group, ScoredModel, ScoreTable

Row = Mapping[str, Any]

PUBLISHED = "as published"
"""The data of a reward model that others have trained: it is none of one's own recipes."""
TRIES, PPO_TRIES = "tries", "PPO tries"
"""Columns that say among how many a row was chosen."""
NUM_TOP = 25
"""Rows of table 3."""


def paper_tables(table: ScoreTable, *, benchmarks: Sequence[str], downstream: Sequence[str]) -> dict[str, list[Row]]:
    """The tables by title; the first of the benchmarks is what reward models are ranked by, the others are its domains."""
    main = benchmarks[0]
    scored = [model for model in table.models if main in model.scores]
    fair = [model for model in scored if not model.control]
    trained = [model for model in fair if model.facts.get("data") != PUBLISHED]
    found = {
        "Top reward models (table 3)": _top(fair, benchmarks),
        "Judges, the better of ratings and rankings (appendix G)": _judges(fair, benchmarks),
        "Best by base model and training data (table 4)": _best(trained, benchmarks, lambda m: _known(m, "base", "data")),
        "Best by base model (table 5)": _best(trained, benchmarks, lambda m: _known(m, "base"), also=("data",)),
        "By number of epochs (table 7)": _epochs(fair, benchmarks),
        "Downstream results by group (table 8)": _groups(table, main, downstream),
    }
    return {title: rows for title, rows in found.items() if rows}


def _top(models: Sequence[ScoredModel], benchmarks: Sequence[str]) -> list[Row]:
    """The best reward models, at most `NUM_TOP`: one's own by the best on each base, published ones each by itself, and judges, marked by a
    star, by the better of their modes."""
    kinds: dict[tuple[str, ...], list[ScoredModel]] = {}
    for model in models:
        own = _known(model, "base", "data", "lr")
        is_judge = bool(model.facts.get("mode"))
        kind = ("judge", model.facts.get("recipe", model.name)) if is_judge else ("base", own["base"]) if own else ("name", model.name)
        kinds.setdefault(kind, []).append(model)
    if len(kinds) < 2:
        return []
    rows: list[Row] = []
    for (what, name), kind in kinds.items():
        best = max(kind, key=lambda model: model.scores[benchmarks[0]])
        shown = f"{name}*" if what == "judge" else best.name
        rows.append({"reward model": shown, **_scores(best, benchmarks), TRIES: len(kind)})
    return sorted(rows, key=lambda row: -row[benchmarks[0]])[:NUM_TOP]


def _known(model: ScoredModel, *keys: str) -> dict[str, str] | None:
    found = {key: model.facts.get(key, "") for key in keys}
    return found if all(found.values()) else None


def _best(
    models: Sequence[ScoredModel], benchmarks: Sequence[str], key: Callable[[ScoredModel], dict[str, str] | None], also: Sequence[str] = ()
) -> list[Row]:
    """The best reward model of each kind, kinds in order of their best; none where every reward model is a kind of its own."""
    kinds: dict[tuple[str, ...], list[ScoredModel]] = {}
    for model in models:
        if (own := key(model)) is not None:
            kinds.setdefault(tuple(own.values()), []).append(model)
    if len(kinds) < 2 or all(len(kind) == 1 for kind in kinds.values()):
        return []
    rows: list[Row] = []
    for kind in kinds.values():
        best = max(kind, key=lambda model: model.scores[benchmarks[0]])
        facts = (key(best) or {}) | {name: best.facts.get(name, "") for name in also}
        rows.append({"model": best.name, **facts, **_scores(best, benchmarks), TRIES: len(kind)})
    return sorted(rows, key=lambda row: -row[benchmarks[0]])


def _epochs(models: Sequence[ScoredModel], benchmarks: Sequence[str]) -> list[Row]:
    """Recipes that were trained for several numbers of epochs; over seeds their best."""
    recipes: dict[tuple[str, ...], dict[float, list[ScoredModel]]] = {}
    for model in models:
        own = _known(model, "base", "data", "lr", "epochs")
        if own is not None and own["epochs"].replace(".", "", 1).isdigit():
            recipes.setdefault((own["base"], own["data"], own["lr"]), {}).setdefault(float(own["epochs"]), []).append(model)
    rows: list[Row] = []
    for (base, data, lr), by_epochs in recipes.items():
        for epochs, kind in sorted(by_epochs.items()) if len(by_epochs) > 1 else ():
            best = max(kind, key=lambda model: model.scores[benchmarks[0]])
            rows.append({"base": base, "data": data, "lr": lr, "epochs": f"{epochs:g}", **_scores(best, benchmarks), TRIES: len(kind)})
    return rows


def _judges(models: Sequence[ScoredModel], benchmarks: Sequence[str]) -> list[Row]:
    """Judges that were asked for ratings and for rankings: both, the better first."""
    judges: dict[str, list[ScoredModel]] = {}
    for model in models:
        if model.facts.get("mode"):
            judges.setdefault(model.facts.get("recipe", model.name), []).append(model)
    rows: list[Row] = []
    for name, modes in judges.items():
        ordered = sorted(modes, key=lambda model: -model.scores[benchmarks[0]])
        counted = [("yes" if place == 0 else "no", model) for place, model in enumerate(ordered)]
        rows += [{"judge": name, "asked for": m.facts["mode"], **_scores(m, benchmarks), "counts": counts} for counts, m in counted]
    return rows


def _groups(table: ScoreTable, main: str, downstream: Sequence[str]) -> list[Row]:
    """The reward models by group, best first, and the policies that they are to be read against."""
    if not any(model.facts.get("group") for model in table.models):
        return []
    known = [group.value for group in Group]
    used = [model for model in table.models if any(column in model.scores for column in downstream)]
    place = {group: number for number, group in enumerate(known)}
    used.sort(key=lambda m: (place.get(m.facts.get("group", ""), len(known)), -m.scores.get(main, float("-inf"))))
    columns = [main, *downstream]
    rows: list[Row] = []
    for model in (*used, *table.policies):
        facts = {key: model.facts.get(key, "") for key in ("base", "data", "lr", "epochs")}
        tries = {PPO_TRIES: model.facts.get("tries", "")} if any("tries" in other.facts for other in used) else {}
        rows.append({"model": model.name, "group": model.facts.get("group", ""), **_scores(model, columns), **tries, **facts})
    return rows


def _scores(model: ScoredModel, columns: Sequence[str]) -> dict[str, float | None]:
    return {column: model.scores.get(column) for column in columns}
