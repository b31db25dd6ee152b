"""Correlations of the columns of a score table: over all reward models and over the parts of them that matter.

Keys are "<benchmark>~<downstream>", with the part in brackets where it is not all: "rb2~ppo (on-policy)".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evalhooks.analysis.correlation import Correlation, correlation, undefined
from evalhooks.analysis.table import Group, ScoredModel, ScoreTable


def pairs(models: Sequence[ScoredModel], *columns: str) -> list[ScoredModel]:
    """The reward models that have a score in each of the columns."""
    return [model for model in models if all(column in model.scores for column in columns)]


def parts(models: Sequence[ScoredModel], benchmark: str) -> Iterator[tuple[str, list[ScoredModel]]]:
    """Names and members of the parts of the reward models that a correlation is also given for; the first part, "", is all.

    The upper half are those at or above the median of the benchmark.
    """
    yield "", list(models)
    controls = [model for model in models if model.control]
    if controls:
        yield "without controls", [model for model in models if not model.control]
    if len(models) > 1:
        median = np.median([model.scores[benchmark] for model in models])
        yield "upper half", [model for model in models if model.scores[benchmark] >= median]
    groups = dict.fromkeys(model.facts["group"] for model in models if model.facts.get("group"))
    known = [group.value for group in Group]
    for group in sorted(groups, key=lambda group: known.index(group) if group in known else len(known)):
        yield str(group), [model for model in models if model.facts.get("group") == group]


def relation(table: ScoreTable, x: str, y: str) -> dict[str, Correlation]:
    """The correlations of two columns by part, under the keys of this module.

    Scores of several protocols are never taken as one: each protocol has its own correlations, and that over all says so.
    """
    both = pairs(table.models, x, y)
    protocols = table.protocols([x, y])
    if len(protocols) < 2:
        return {_key(x, y, part): _of(table, members, x, y) for part, members in parts(both, x)}
    found = {_key(x, y): undefined(len(both), f"{len(protocols)} protocols, which are not comparable; see each.")}
    for protocol in protocols:
        own = [model for model in both if model.protocol == protocol]
        label = protocol or "protocol unknown"
        found |= {_key(x, y, ", ".join(filter(None, (label, part)))): _of(table, members, x, y) for part, members in parts(own, x)}
    return found


def between(table: ScoreTable, columns: Sequence[str]) -> dict[str, Correlation]:
    """The correlations of each two of the columns, as of the benchmarks or of the tasks (figure 7 of the paper)."""
    found: dict[str, Correlation] = {}
    for place, x in enumerate(columns):
        for y in columns[place + 1 :]:
            found |= {key: value for key, value in relation(table, x, y).items() if key == _key(x, y)}
    return found


def plain(found: Mapping[str, Correlation]) -> dict[str, Any]:
    """Correlations as JSON holds them."""
    return {
        key: {name: list(item) if isinstance(item, tuple) else item for name, item in asdict(value).items()} for key, value in found.items()
    }


def _key(x: str, y: str, part: str = "") -> str:
    return f"{x}~{y} ({part})" if part else f"{x}~{y}"


def _of(table: ScoreTable, models: Sequence[ScoredModel], x: str, y: str) -> Correlation:
    names = table.columns.name(x), table.columns.name(y)
    return correlation([model.scores[x] for model in models], [model.scores[y] for model in models], names=names)
