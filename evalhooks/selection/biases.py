"""The bias panel of pools: what each reward pays for beside correctness, over all tasks together."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain

from bon.bias import Panel, panel_of
from bon.ensembles import deviation
from bon.features import FEATURES, OWN_LINEAGE, features_of
from bon.rows import PoolRow, Pools
from core.models.origin import family
from core.records import Dialogue
from core.shares import Z95

Scores = Mapping[str, Sequence[Sequence[float]]]
"""A reward's scores by task and prompt."""

MIN_PROMPTS = 10
"""Prompts below which resampling them says little of a bias, so that none is logged of a reward model."""


class PoolFeatures:
    """The features of the completions of pools over the prompts of all tasks, measured once for any number of rewards.

    Where the correctness of any prompt is known, only such prompts count.
    """

    def __init__(self, pools: Pools) -> None:
        known = any(row.correct for rows in pools.values() for row in rows)
        self._places = {task: [place for place, row in enumerate(rows) if row.correct or not known] for task, rows in pools.items()}
        self._rows = [pools[task][place] for task, places in self._places.items() for place in places]
        self._correct = [list(row.correct) for row in self._rows] if known else None

    @cached_property
    def _tables(self) -> dict[str, list[list[float]]]:
        measured = [[features_of(text, row.prompt) for text in row.completions] for row in self._rows]
        return {name: [[one[name] for one in own] for own in measured] for name in FEATURES}

    def panel(self, scores: Scores, family: str = "") -> Panel:
        """The panel of the reward with these scores; each task's count in their own deviation within prompts.

        `family` names the family of models that the reward comes from, empty where it is none: it is compared with what wrote each
        completion, where pools say that.
        """
        scales = {task: deviation(own) or 1.0 for task, own in scores.items()}
        own = [[score / scales[task] for score in scores[task][place]] for task, places in self._places.items() for place in places]
        return panel_of(own, self._tables | _lineage(self._rows, family), self._correct)


def panels_of(pools: Pools, scores: Mapping[str, Scores], families: Mapping[str, str]) -> dict[str, Panel]:
    """The panel of every reward (see `PoolFeatures`); `families` names the family of models that each comes from."""
    features = PoolFeatures(pools)
    return {reward: features.panel(by_task, families.get(reward, "")) for reward, by_task in scores.items()}


def _lineage(rows: Sequence[PoolRow], own: str) -> dict[str, list[list[float]]]:
    """Whether each completion was written by the reward's own family; empty where that is not known of all."""
    if not own or not all(row.models for row in rows):
        return {}
    return {OWN_LINEAGE: [[float(family(name) == own) for name in row.models] for row in rows]}


def style_of(
    prompts: Sequence[Dialogue],
    answers: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    correct: Sequence[Sequence[float | None]],
) -> dict[str, float]:
    """A policy's outputs at a checkpoint: `style/<feature>`, the mean of each feature over all answers, and `bias/<feature>`, what the
    reward pays for on them, which several answers per prompt show.

    A style that rises while its bias is above 0 is one that the reward has taught. Biases leave out prompts with a skipped answer. Empty
    without answers.
    """
    rows = [[features_of(text, prompt) for text in texts] for prompt, texts in zip(prompts, answers, strict=True)]
    tables = {name: [[one[name] for one in row] for row in rows] for name in FEATURES}
    if not rows:
        return {}
    flat = {name: list(chain.from_iterable(table)) for name, table in tables.items()}
    levels = {f"style/{name}": sum(values) / len(values) for name, values in flat.items()}
    if not scores:
        return levels
    places = [place for place, row in enumerate(correct) if None not in row]
    chosen = {name: [table[place] for place in places] for name, table in tables.items()}
    labels = [[value for value in correct[place] if value is not None] for place in places]
    panel = {"": panel_of([scores[place] for place in places], chosen, labels)}
    return levels | bias_metrics(panel) | bias_errors(panel)


def bias_metrics(panels: Mapping[str, Panel]) -> dict[str, float]:
    """`bias/<reward>/<feature>`: the partial correlations given correctness; `bias/<feature>` for a reward without a name."""
    return {f"bias/{_prefix(reward)}{bias.feature}": bias.given_correct for reward, panel in panels.items() for bias in panel.biases}


def bias_errors(panels: Mapping[str, Panel]) -> dict[str, float]:
    """`bias_se/<reward>/<feature>`: the standard errors of `bias_metrics`, as wide as the intervals of the bootstrap over prompts."""
    return {
        f"bias_se/{_prefix(reward)}{bias.feature}": (bias.high - bias.low) / (2 * Z95)
        for reward, panel in panels.items()
        for bias in panel.biases
    }


def paid_for(features: PoolFeatures, scores: Scores) -> dict[str, float]:
    """What one reward pays for beside correctness: `bias/<feature>` and its standard error; empty below `MIN_PROMPTS` prompts."""
    panel = features.panel(scores)
    return bias_metrics({"": panel}) | bias_errors({"": panel}) if panel.num_prompts >= MIN_PROMPTS else {}


def _prefix(reward: str) -> str:
    return f"{reward}/" if reward else ""
