"""What people read where files and code have a metric's key: "RewardBench 2 overall", "best of 16, average", "held-out accuracy".

CSV and JSON files keep the keys.
"""

import re
from collections.abc import Callable, Iterable

from core.records import AXIS
from evalhooks.rewardbench.domains import DOMAINS, label_of
from evalhooks.rewardbench.v1 import METRIC_KEYS

PPO = "ppo"
"""The column with the downstream average after PPO, in the analysis of runs."""

STEP = "training step"
"""The step that checkpoints, their metrics and curves of training stand at: one of the optimiser, or of a policy one batch of episodes."""

_NAMES = {
    AXIS: STEP,
    "train/step": STEP,
    PPO: "PPO downstream average",
    "downstream/average": "downstream average",
    "held_out/accuracy": "held-out accuracy",
    "pairs/accuracy": "accuracy on pairs",
    "rm_score": "RM score",
    "kl": "KL to the reference",
    "on_policy/rm_accuracy": "on-policy accuracy of the RM",
    "on_policy/rm_score": "on-policy RM score",
    "on_policy/reward_std": "on-policy deviation of the reward",
    "on_policy/accuracy": "on-policy accuracy of the policy",
    "on_policy/gap": "on-policy gap of reward and correctness",
}
_LINK = re.compile(r"(?P<x>[^~]+)~(?P<y>.+?)(?P<part> \(.*\))?")


def metric_name(metric: str, *, best_of: str = "best of N") -> str:
    """The name of a metric for a sentence, a table's head or an axis; one that is not known is its own name.

    `best_of` says of how many a best-of-N metric chooses where its key does not.

    >>> [metric_name(key) for key in ("rewardbench2/overall", "rewardbench2/precise_if", "rewardbench1/chat_hard")]
    ['RewardBench 2 overall', 'Precise IF', 'RewardBench 1 Chat Hard']
    >>> [metric_name(key, best_of="best of 16") for key in ("bon/average", "bon/gsm8k@4", "ppo", "elo")]
    ['best of 16, average', 'best of 4, gsm8k', 'PPO downstream average', 'elo']
    """
    if metric in _NAMES:
        return _NAMES[metric]
    group, _, key = metric.partition("/")
    match group:
        case "rewardbench2" if key:
            return DOMAINS.get(key) or f"RewardBench 2 {label_of(key)}"
        case "rewardbench1" if key:
            return f"RewardBench 1 {METRIC_KEYS.get(key, key.replace('_', ' '))}"
        case "rewardbench2_se" | "rewardbench1_se" | "bon_se" | "downstream_se" if key:
            own = metric.replace("_se/", "/", 1)
            return f"{metric_name(own, best_of=best_of)}, standard error"
        case "bon" if key:
            return _chosen(key, best_of)
        case "downstream" if key:
            return f"downstream, {key}"
        case _:
            return metric


def _chosen(key: str, best_of: str) -> str:
    """Of a metric of best-of-N: "best of 4, gsm8k", and "best of 4 by REWARD, gsm8k" where the key names the reward."""
    task, _, size = key.partition("@")
    reward, slash, task = task.rpartition("/")
    chosen = f"best of {size}" if size.isdigit() else best_of
    return f"{chosen} by {reward}, {task}" if slash else f"{chosen}, {task}"


def column_names(columns: Iterable[str], *, best_of: str = "best of N") -> dict[str, str]:
    """The names of the columns of one table: their keys where two would bear the same name.

    >>> column_names(["rewardbench2/math", "Math", "kl"])
    {'rewardbench2/math': 'rewardbench2/math', 'Math': 'Math', 'kl': 'KL to the reference'}
    """
    keys = list(dict.fromkeys(columns))
    names = [metric_name(key, best_of=best_of) for key in keys]
    return {key: name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)}


def link_name(key: str, name: Callable[[str], str] = metric_name) -> str:
    """The name of a correlation, whose key is `<benchmark>~<downstream>`, with the part of the reward models that it is over in brackets;
    `name` is that of a column.

    >>> link_name("rewardbench2/focus~bon/average@16 (upper half)")
    'Focus ~ best of 16, average (upper half)'
    """
    found = _LINK.fullmatch(key)
    if found is None:
        return name(key)
    return f"{name(found['x'])} ~ {name(found['y'])}{found['part'] or ''}"
