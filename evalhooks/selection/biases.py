"""The bias panel of pools: what each reward pays for beside correctness, over all tasks together."""

from collections.abc import Mapping, Sequence
from itertools import chain

from bon.bias import Panel, panel_of
from bon.ensembles import deviation
from bon.features import FEATURES, OWN_LINEAGE, features_of
from bon.rows import PoolRow, Pools
from core.models.origin import family
from core.records import Dialogue

Scores = Mapping[str, Sequence[Sequence[float]]]
"""A reward's scores by task and prompt."""


def panels_of(pools: Pools, scores: Mapping[str, Scores], families: Mapping[str, str]) -> dict[str, Panel]:
    """The panel of every reward over the prompts of all tasks; each task's scores count in their own deviation within prompts.

    Where the correctness of any prompt is known, only such prompts count. `families` names the family of models that a reward comes
    from, empty where it is none: it is compared with what wrote each completion, where pools say that.
    """
    known = any(row.correct for rows in pools.values() for row in rows)
    chosen = {task: [place for place, row in enumerate(rows) if row.correct or not known] for task, rows in pools.items()}
    rows = [pools[task][place] for task, places in chosen.items() for place in places]
    measured = [[features_of(text, row.prompt) for text in row.completions] for row in rows] if scores else []
    tables = {name: [[one[name] for one in own] for own in measured] for name in FEATURES}
    correct = [list(row.correct) for row in rows] if known else None
    panels: dict[str, Panel] = {}
    for reward, by_task in scores.items():
        scales = {task: deviation(own) or 1.0 for task, own in by_task.items()}
        own = [[score / scales[task] for score in by_task[task][place]] for task, places in chosen.items() for place in places]
        panels[reward] = panel_of(own, tables | _lineage(rows, families.get(reward, "")), correct)
    return panels


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
    return levels | bias_metrics({"": panel_of([scores[place] for place in places], chosen, labels)})


def bias_metrics(panels: Mapping[str, Panel]) -> dict[str, float]:
    """`bias/<reward>/<feature>`: the partial correlations given correctness; `bias/<feature>` for a reward without a name."""
    named = {f"bias/{reward}/" if reward else "bias/": panel for reward, panel in panels.items()}
    return {f"{prefix}{bias.feature}": bias.given_correct for prefix, panel in named.items() for bias in panel.biases}
