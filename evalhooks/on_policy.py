"""What a reward is worth on the policy's own outputs, and how far it has drifted from correctness.

Everything here is a formula over scores and correctness; `evalhooks.checkpoints.policy` draws the answers.
"""

import statistics
from collections.abc import Mapping, Sequence
from itertools import product

from bon.estimators import mean
from core.records import Completion


def ranking_credit(right: float, wrong: float) -> float:
    """1 if the right answer scores higher, 0.5 if both score the same, else 0."""
    return 1.0 if right > wrong else 0.5 if right == wrong else 0.0


def on_policy(scores: Sequence[Sequence[float]], correct: Sequence[Sequence[float]]) -> dict[str, float]:
    """What the reward is worth on the policy's current outputs, with one inner list of answers per prompt.

    `rm_accuracy`: share of pairs of a correct and an incorrect answer to one prompt that the reward ranks correctly, equal
    scores counting half. `reward_std`: its standard deviation within a prompt, averaged (Razin et al. 2025 tie it to the
    speed of learning). `rm_score`: its mean. `accuracy` and `accuracy_std`: mean and deviation of correctness over the same
    answers. A metric is left out if there is nothing to measure: one answer per prompt gives neither pairs nor deviations.
    """
    if not scores:
        return {}
    metrics = {
        "on_policy/rm_score": mean([score for row in scores for score in row]),
        "on_policy/accuracy": mean([label for row in correct for label in row]),
    }
    if len(scores[0]) > 1:
        metrics["on_policy/reward_std"] = mean([statistics.pstdev(row) for row in scores])
        metrics["on_policy/accuracy_std"] = mean([statistics.pstdev(row) for row in correct])
    pairs = [
        ranking_credit(right, wrong)
        for row, labels in zip(scores, correct, strict=True)
        for right, wrong in product(
            [s for s, label in zip(row, labels, strict=True) if label >= 0.5],
            [s for s, label in zip(row, labels, strict=True) if label < 0.5],
        )
    ]
    return metrics | ({"on_policy/rm_accuracy": mean(pairs)} if pairs else {})


def gap(now: Mapping[str, float], start: Mapping[str, float]) -> dict[str, float]:
    """How much more the reward has risen than correctness since the untrained policy: `on_policy/gap`, from metrics of `on_policy`.

    Each rise is measured in its own standard deviation within a prompt over the untrained policy's answers:
    (rm_score - rm_score_0) / reward_std_0 - (accuracy - accuracy_0) / accuracy_std_0. That has no unit, so that reward
    models of different scales compare, as do checkpoints. A reward that is correctness, scaled by a positive factor and
    shifted by any amount per prompt, has a gap of 0 whatever the policy. Over-optimisation makes the gap grow, as the
    reward rises and correctness does not: the proxy and gold scores that diverge in figure 1 of Gao et al. 2023. A noisy
    reward understates its rise, and so the gap.

    Left out if the untrained policy's answers differed within no prompt in score, or within none in correctness, and if there are no
    metrics of now.
    """
    if "on_policy/rm_score" not in now or not (start.get("on_policy/reward_std", 0) > 0 and start.get("on_policy/accuracy_std", 0) > 0):
        return {}
    rises = [
        (now[f"on_policy/{name}"] - start[f"on_policy/{name}"]) / start[f"on_policy/{std}"]
        for name, std in (("rm_score", "reward_std"), ("accuracy", "accuracy_std"))
    ]
    return {"on_policy/gap": rises[0] - rises[1]}


def lengths(answers: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """`on_policy/length`: mean tokens of an answer, EOS included; `on_policy/unfinished`: share cut at the token limit."""
    flat = [completion for row in answers for completion in row]
    if not flat:
        return {}
    return {
        "on_policy/length": mean([len(completion.token_ids) for completion in flat]),
        "on_policy/unfinished": mean([float(not completion.finished) for completion in flat]),
    }
