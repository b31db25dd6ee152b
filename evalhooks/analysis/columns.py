"""How the columns of a table of scores are shown to people: by name, and shares in points of 100. Files keep keys and shares."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.shares import is_share
from evalhooks.metric_names import column_names, link_name

_MOST = 1.5
"""No share is larger: RewardBench 2's score of Ties goes up to 1.01."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The `names` of columns, their keys where they have none, and which columns are `shares` of 1; all others keep their own unit.

    >>> known = Columns(names={"bon/average": "best of 16, average"}, shares=frozenset({"bon/average"}))
    >>> known.name("bon/average"), known.value("bon/average", 0.7194), known.unit("bon/average")
    ('best of 16, average', '71.9', 'points')
    >>> known.name("elo"), known.value("elo", 1287.25), known.unit("elo")
    ('elo', '1287', '')
    """

    names: Mapping[str, str] = field(default_factory=dict)
    shares: frozenset[str] = frozenset()

    def name(self, column: str) -> str:
        """What people read for a column."""
        return self.names.get(column, column)

    def link(self, key: str) -> str:
        """What people read for a correlation of two columns."""
        return link_name(key, self.name)

    def scaled(self, column: str, value: float) -> float:
        """A number of a column as it is shown: a share in points of 100."""
        return 100 * value if column in self.shares else value

    def value(self, column: str, value: float | None, *, sign: bool = False) -> str:
        """A score, or a difference of two, as text: points with one digit, in another unit four digits; a missing one is "n/a"."""
        if value is None:
            return "n/a"
        digits = ".1f" if column in self.shares else ".4g"
        return f"{self.scaled(column, value):{'+' if sign else ''}{digits}}"

    def unit(self, column: str) -> str:
        """ "points" for a share; nothing for a column in its own unit."""
        return "points" if column in self.shares else ""

    def lost(self, column: str, value: float) -> str:
        """A difference in a column for a sentence: "1.8 points", or in its own unit "12 in elo"."""
        return f"{self.value(column, value)} {self.unit(column) or f'in {self.name(column)}'}"

    def axis(self, column: str) -> str:
        """The label of an axis."""
        return f"{self.name(column)} (points)" if column in self.shares else self.name(column)


def columns_of_metrics(metrics: Iterable[str], *, best_of: str, shares: Collection[str] = ()) -> Columns:
    """The columns that are metrics of runs; `shares` are those that are, beside the metrics that `core.shares` knows."""
    keys = list(dict.fromkeys(metrics))
    return Columns(names=column_names(keys, best_of=best_of), shares=frozenset(key for key in keys if is_share(key) or key in shares))


def columns_of_file(
    values: Mapping[str, Mapping[str, float]], *, shares: Collection[str] = (), stems: Sequence[str] = ()
) -> tuple[Columns, list[str]]:
    """The columns of a file of somebody's, and a sentence for each that is not in the unit its name promises.

    `values` are by column and reward model. A column that bears the key of a metric, as those of reward_models.csv do, is shown as that
    metric is, with several files behind its file's stem. It is a share where its metric is one, unless its numbers go beyond 1, which
    then are points already; so is one of `shares`. Raises `ValueError` for one of these that is not there or no share of 1.

    >>> columns, said = columns_of_file({"rewardbench2/math": {"a": 0.5}, "bon/average": {"a": 51.0}, "rb2": {"a": 0.7}})
    >>> sorted(columns.shares), said
    (['rewardbench2/math'], ['bon/average holds numbers beyond 1, so it is no share of 1; its numbers are shown as they are.'])
    """
    metrics = {key: next((key.removeprefix(f"{stem}/") for stem in stems if key.startswith(f"{stem}/")), key) for key in values}
    names = column_names([metric for metric in metrics.values() if "/" in metric])
    named = {
        key: names[metric] if key == metric else f"{names[metric]} ({key.removesuffix(f'/{metric}')})"
        for key, metric in metrics.items()
        if metric in names and names[metric] not in values  # a column of that very name is another one
    }
    if unknown := [column for column in shares if column not in values]:
        raise ValueError(f"shares={unknown[0]} is none of the columns that are read; they are {', '.join(values)}.")
    found, said = set[str](), list[str]()
    for key in (key for key, metric in metrics.items() if key in shares or is_share(metric)):
        beyond = next((model for model, value in values[key].items() if abs(value) > _MOST), None)
        if beyond is None:
            found.add(key)
        elif key in shares:
            raise ValueError(
                f"shares={key}: {key} of {beyond} is {values[key][beyond]:g}, which is no share of 1; leave {key} out of shares."
            )
        else:
            said.append(f"{key} holds numbers beyond 1, so it is no share of 1; its numbers are shown as they are.")
    return Columns(names=named, shares=frozenset(found)), said


def columns_in(found: Mapping[str, Any]) -> Columns:
    """The columns as findings hold them, under `names` and `shares`; findings of before have neither."""
    return Columns(names=found.get("names", {}), shares=frozenset(found.get("shares", ())))
