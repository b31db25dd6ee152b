"""Accuracy on held-out pairs at the checkpoints of a reward model."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from bon.estimators import mean
from core.hooks.hook import RunParts, SharedHook
from core.records import CheckpointSaved, Preference
from core.runs.samples import write_samples
from evalhooks.checkpoints.scorer import checkpoint_scorer
from evalhooks.on_policy import ranking_credit
from evalhooks.pair_accuracy import pair_metrics
from evalhooks.rewardbench.finite import REMEDY
from evalhooks.samples import worst_pairs

MAX_SOURCES = 20
"""Sources of held-out pairs with a metric of their own."""
OTHERS = "others"
"""All other sources together."""


class HeldOutHook(SharedHook):
    """Accuracy on preference pairs held out from training, overall and by source; equal rewards count half, a NaN counts as wrong.

    Where all rewards are finite, with its 95% interval, the calibration error and the mean margin (see `pair_metrics`).

    Beyond `MAX_SOURCES`, as where every row has a source of its own, sources share the metric `OTHERS`.

    Pairs longer than `max_length` tokens are left out, as in training; `held_out/num_pairs` counts those that are measured and
    `held_out/num_too_long` the others. `say` reports once how many, and at every checkpoint how many
    have rewards that are not finite. A source in which all have such rewards has no accuracy of its own.
    """

    def __init__(
        self, pairs: Sequence[Preference], *, max_length: int = 2048, batch_tokens: int = 16384, say: Callable[[str], None] = print
    ) -> None:
        self.pairs, self.max_length, self.batch_tokens, self.say = pairs, max_length, batch_tokens, say
        self._said = False

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        say = parts.told(self.say)
        scorer = checkpoint_scorer(
            event,
            parts,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            progress=self.progress,
            label=f"held-out pairs, step {event.step}",
            say=lambda _: None,  # the trainer already reports once that the model pads
        )
        rows = scorer.score_detailed([pair.prompt for pair in self.pairs], [(pair.chosen, pair.rejected) for pair in self.pairs])
        by_source: dict[str, list[float]] = defaultdict(list)
        named = self._sources()
        finite: set[str] = set()
        broken: list[int] = []
        for place, (pair, (chosen, rejected)) in enumerate(zip(self.pairs, rows, strict=True), 1):
            if not chosen.truncated and not rejected.truncated:
                source = (pair.source if pair.source in named else OTHERS) if pair.source else "unnamed"
                by_source[source].append(ranking_credit(chosen.reward, rejected.reward))
                if math.isfinite(chosen.reward) and math.isfinite(rejected.reward):
                    finite.add(source)
                else:
                    broken.append(place)
        if broken:
            say(
                f"step {event.step}: {len(broken)} of {len(self.pairs)} held-out pairs have rewards that are NaN or infinite, the first is "
                f"pair {broken[0]}; {REMEDY}"
            )
        whole = [place for place, row in enumerate(rows) if not any(score.truncated for score in row)]
        rewards = [(rows[place][0].reward, rows[place][1].reward) for place in whole]
        worst = worst_pairs([self.pairs[place] for place in whole], rewards)
        parts.world.from_main(lambda: write_samples(event.run_dir, event.step, "held_out", worst))
        credits = [credit for source in by_source.values() for credit in source] if finite else []
        num_long = sum(chosen.truncated or rejected.truncated for chosen, rejected in rows)
        if num_long and not self._said:
            say(f"left out {num_long} of {len(self.pairs)} held-out pairs longer than {self.max_length} tokens")
            self._said = True
        counted = {"held_out/num_pairs": float(len(self.pairs) - num_long), "held_out/num_too_long": float(num_long)}
        if not credits:
            return counted
        finite_rewards = [pair for pair in rewards if all(map(math.isfinite, pair))]
        found = {"accuracy": mean(credits)}
        if len(finite_rewards) == len(credits):  # what counts a NaN as wrong has neither interval nor calibration
            found = pair_metrics(finite_rewards)
        by_name = {f"{source}/accuracy": mean(own) for source, own in by_source.items() if source in finite}
        return {f"held_out/{name}": value for name, value in {**found, **by_name}.items()} | counted

    def _sources(self) -> set[str]:
        """The sources with a metric of their own: those of the most pairs, and of as many pairs the first by name."""
        counts = Counter(pair.source for pair in self.pairs if pair.source)
        return set(sorted(counts, key=lambda source: (-counts[source], source))[:MAX_SOURCES])
