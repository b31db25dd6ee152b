"""What the page draws scores against each other with: every reward model's columns, their correlations, and what lies behind the points.

Everything is on the scale that it is read on: shares in points of 100, other scores as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evalhooks.analysis.columns import Columns, columns_in, columns_of_metrics
from evalhooks.analysis.table import Group, error_column
from evalhooks.report.charts import MARKS, MIX_COLOURS
from evalhooks.report.facts import RewardModel, Study
from evalhooks.rewardbench.domains import DOMAINS, PREFIX

Data = dict[str, Any]
Findings = Mapping[str, Any]


_SETUP = ("base", "data", "lr", "epochs", "seed")


def of_study(study: Study) -> Data:
    """The explorer of a study: colours are preference mixes, marks are base models, and the lines are those of its policy and pools."""
    found = study.findings or {}
    known = _by_name(found, f"{PREFIX}{study.score_key}")
    benchmarks, downstream = _benchmarks(found, study), _downstream(found, study)
    columns = _columns(found, [*benchmarks, *downstream], best_of=study.bon_name)
    models: list[Data] = []
    for rm in study.models:
        entry = known.get((rm.name, rm.overall), {})
        scores = {**_own_scores(rm), **entry.get("scores", {})}
        shown = _model(columns, rm.name, rm.control, scores, [*benchmarks, *downstream])
        models.append({**shown, "setup": setup(rm), "group": rm.data, "mark": rm.base, "protocol": entry.get("protocol", "")})
    made = _explorer(found, columns, models, benchmarks=benchmarks, downstream=downstream)
    links = {key: _link(link.pearson, link.low, link.high, link.n, link.spearman) for key, link in study.links.items()}
    marks = [[base or "no base", MARKS[place % len(MARKS)][1]] for place, base in enumerate(study.bases)]
    return {**made, "links": links | made["links"], "groups": study.mixes, "marks": marks, "lines": _lines(study, columns)}


def of_findings(found: Findings) -> Data:
    """The explorer of a table of scores: colours are groups of reward models, all marks are the same, and the lines are its policies."""
    keys = [*found["benchmarks"], *found["downstream"]]
    columns = _columns(found, keys, best_of="best of N")
    models = [
        {
            **_model(columns, model["name"], model["control"], model["scores"], keys),
            "setup": ", ".join(f"{key} {model['facts'][key]}" for key in _SETUP if model["facts"].get(key)),
            "group": Group.controls.value if model["control"] else str(model["facts"].get("group") or model["facts"].get("base") or ""),
            "mark": "",
            "protocol": model["protocol"],
        }
        for model in found["models"]
    ]
    made = _explorer(found, columns, models, benchmarks=found["benchmarks"], downstream=found["downstream"])
    lines = {
        column: [
            [_scaled(columns, column, policy["scores"][column]), policy["name"]]
            for policy in found["policies"]
            if column in policy["scores"]
        ]
        for column in found["downstream"]
    }
    return {**made, "groups": list(dict.fromkeys(model["group"] for model in models)), "marks": [["", MARKS[0][1]]], "lines": lines}


def setup(rm: RewardModel) -> str:
    """What a reward model was made of, for the card of its point."""
    parts = [rm.data, rm.base, "" if rm.lr is None else f"lr {rm.lr:g}", "" if rm.epochs is None else f"{rm.epochs:g} epochs"]
    return ", ".join(part for part in parts if part)


def _explorer(found: Findings, columns: Columns, models: Sequence[Data], *, benchmarks: Sequence[str], downstream: Sequence[str]) -> Data:
    links: Data = {}
    for part in ("correlation", "between_benchmarks", "between_downstream"):
        for key, link in (found.get(part) or {}).items():
            low, high = link["ci95"] or (None, None)
            links[key] = _link(link["pearson"], low, high, link["n"], link["spearman"], link["note"])
    published: Data = {}
    for source in found.get("reference") or []:
        for key, spots in source.get("points", {}).items():
            x, _, y = key.partition("~")
            published.setdefault(key, []).extend([_scaled(columns, x, a), _scaled(columns, y, b)] for a, b in spots)
    bands = {column: _scaled(columns, column, (noise or {}).get("band")) for column, noise in (found.get("seed_noise") or {}).items()}
    return {
        "benchmarks": list(benchmarks),
        "downstream": list(downstream),
        "columns": {key: {"name": columns.name(key), "unit": columns.unit(key)} for key in dict.fromkeys([*benchmarks, *downstream])},
        "models": list(models),
        "protocols": list(found.get("protocols") or [""]),
        "links": links,
        "published": published,
        "bands": {column: band for column, band in bands.items() if band is not None},
        "picks": [_pick(columns, key, entry) for key, entry in (found.get("pick") or {}).items() if entry.get("candidates")],
        "preference": found.get("self_preference"),
        "colours": MIX_COLOURS,
    }


def _model(columns: Columns, name: str, control: bool, scores: Mapping[str, float | None], keys: Sequence[str]) -> Data:
    there = {column: value for column in dict.fromkeys(keys) if (value := scores.get(column)) is not None}
    errors = {column: scores[error] for column in there if (error := error_column(column, scores))}
    return {
        "name": name,
        "control": control,
        "scores": {column: _scaled(columns, column, value) for column, value in there.items()},
        "errors": {column: _scaled(columns, column, value) for column, value in errors.items() if value},
    }


def _pick(columns: Columns, key: str, entry: Mapping[str, Any]) -> Data:
    by, _, downstream = key.partition("~")
    ordered = sorted(entry["candidates"], key=lambda one: (one["name"] != entry["model"], -one["probability"], one["regret"]))
    # Where too few have a downstream result, the regret is one in the benchmark itself (see `analysis.pick`).
    column = downstream if entry.get("slope") is not None else by
    return {
        "by": by,
        "downstream": downstream,
        "model": entry["model"],
        "candidates": [[one["name"], _short(one["probability"]), _scaled(columns, column, one["regret"])] for one in ordered[:12]],
        "left": max(0, len(ordered) - 12),
    }


def _columns(found: Findings, keys: Sequence[str], *, best_of: str) -> Columns:
    """How the columns are shown: those of the findings as these say, others by what is known of their metrics."""
    told, own = columns_in(found), columns_of_metrics(keys, best_of=best_of)
    known = {*found["benchmarks"], *found["downstream"]} if "shares" in found else set[str]()
    return Columns(
        names={**own.names, **told.names}, shares=frozenset(key for key in keys if key in (told if key in known else own).shares)
    )


def _scaled(columns: Columns, column: str, value: float | None) -> float | None:
    return None if value is None else _short(columns.scaled(column, value))


def _by_name(found: Findings, main: str) -> dict[tuple[str, float | None], Mapping[str, Any]]:
    """Reward models of the findings by name and main score: two runs may share a name."""
    return {(model["name"], model["scores"].get(main)): model for model in found.get("models") or []}


def _own_scores(rm: RewardModel) -> dict[str, float | None]:
    scores = {f"{PREFIX}{key}": rm.benchmark.get(key) for key in (rm.score_key, *DOMAINS)}
    return {**scores, "rewardbench1/overall": rm.pairwise.get("overall"), **{f"bon/{task}": value for task, value in rm.bon.items()}}


def _benchmarks(found: Findings, study: Study) -> list[str]:
    """The columns of benchmarks that some reward model has, those of the findings first."""
    own = [f"{PREFIX}{study.score_key}", *(f"{PREFIX}{key}" for key in DOMAINS), "rewardbench1/overall"]
    there = {column for rm in study.models for column, value in _own_scores(rm).items() if value is not None}
    return list(dict.fromkeys([*(found.get("benchmarks") or []), *(column for column in own if column in there)]))


def _downstream(found: Findings, study: Study) -> list[str]:
    own = [f"bon/{task}" for task in ("average", *study.tasks) if any(rm.bon.get(task) is not None for rm in study.models)]
    return list(dict.fromkeys([*(found.get("downstream") or []), *own]))


def _lines(study: Study, columns: Columns) -> dict[str, list[list[Any]]]:
    """By downstream column the heights that it is to be read against: the policy alone, and the best that its answers allow."""
    named = (("start policy", study.start), ("oracle", study.oracle))
    lines: dict[str, list[list[Any]]] = {}
    for label, scores in named:
        for task, value in scores.items():
            if value is not None:
                lines.setdefault(f"bon/{task}", []).append([_scaled(columns, f"bon/{task}", value), label])
    for policy in (study.findings or {}).get("policies") or []:
        for column, value in policy["scores"].items():
            if column not in lines:
                lines[column] = [[_scaled(columns, column, value), policy["name"]]]
    return lines


def _link(pearson: float | None, low: float | None, high: float | None, n: int | None, spearman: float | None, note: str = "") -> Data:
    return {"pearson": _short(pearson), "low": _short(low), "high": _short(high), "n": n, "spearman": _short(spearman), "note": note}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
