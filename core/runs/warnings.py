"""Warnings of a run: what would spoil it in silence, and the key to change. Each is told once, and stands in the record as `warnings`.

The thresholds are here, and the rules that apply them to metrics and counts which the trainers have anyway. A rule returns None where
there is nothing to tell.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.shares import in_points, wilson

MIN_ROWS = 30
"""Below it an accuracy has a 95% interval of more than 18 points to either side (1.96 * sqrt(0.25 / 30))."""
MAX_LOST = 0.1
"""Share of the data that may be left out or cut: beyond a tenth, what is trained on is another data set than the one named."""
MAX_CUT = 0.5
"""Share of the answers that may end at the token limit: beyond half, the limit decides what an answer is, not the policy."""
MAX_EQUAL_BATCHES = 0.1
"""Share of the batches in which all scores may be equal. With verifiers a batch now and then has no right answer."""
EQUAL = 1e-6
"""Standard deviation of scores that are equal but for rounding; shaped scores have one of about 1."""
KL_JUMP, KL_FLOOR = 3.0, 5.0
"""A KL jumps if it is this many times that of the batch before, and above the floor in nats per completion: it starts from 0."""
KL_MOVED = 1.0
"""KL in nats per completion from which a policy counts as changed: it then writes its own answers more than twice as readily (e ** 1)."""
MIN_STEPS = 10
"""Optimiser steps below which a learning rate meant for hundreds of steps does little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunWarning:
    """One warning: `what` is wrong, the `key` to change, the sentence for the user, and the numbers that it rests on.

    >>> RunWarning(what="pairs_dropped", key="max_length", text="44 of 67 pairs were dropped; raise max_length.").line
    'warning: 44 of 67 pairs were dropped; raise max_length.'
    """

    what: str
    key: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str]:
        """What makes two warnings of a run the same."""
        return self.what, self.key

    @property
    def line(self) -> str:
        """As the terminal shows it."""
        return f"warning: {self.text}"

    def entry(self) -> dict[str, Any]:
        """As it stands in a record."""
        return {"what": self.what, "key": self.key, "text": self.text, "numbers": dict(self.numbers)}


def texts_of(record: Mapping[str, Any]) -> list[str]:
    """The sentences of the warnings in a run's record."""
    return [str(entry["text"]) for entry in record.get("warnings", [])]


def pairs_dropped(num: int, total: int, *, max_length: int) -> RunWarning | None:
    """Training pairs that were too long."""
    text = f"are longer than max_length={max_length} tokens and were dropped; raise max_length, or cut their prompts (overlong=cut)."
    return _lost("pairs_dropped", "max_length", num, total, "pairs", text)


def pairs_cut(num: int, total: int, *, max_length: int) -> RunWarning | None:
    """Training pairs whose prompts were cut to fit."""
    return _lost(
        "pairs_cut", "max_length", num, total, "pairs", f"had their prompt cut to max_length={max_length} tokens; raise max_length."
    )


def pairs_equal(num: int, total: int) -> RunWarning | None:
    """Training pairs whose sides the chat template or the tokenizer makes the same."""
    text = "have the same tokens as chosen and rejected and were dropped; look at the data, or choose another model.path."
    return _lost("pairs_equal", "data.paths", num, total, "pairs", text)


def rows_left_out(counts: Mapping[str, Mapping[str, Any]]) -> RunWarning | None:
    """Rows that never became pairs, from the counts by source (see `rmtrain.data`): broken, equal, duplicates, contaminated."""
    reasons = {
        "broken": ("data.skip_broken", "broken"),
        "equal": ("data.paths", "with equal sides"),
        "duplicates": ("data.deduplicate", "duplicates"),
        "contaminated_dropped": ("data.decontaminate", "in the benchmark too"),
    }
    total = sum(int(source["read"]) for source in counts.values())
    lost = {reason: sum(int(source[reason]) for source in counts.values()) for reason in reasons}
    worst = max(lost, key=lambda reason: lost[reason])
    key, _ = reasons[worst]
    parts = ", ".join(f"{num} {reasons[reason][1]}" for reason, num in lost.items() if num)
    return _lost("rows_left_out", key, sum(lost.values()), total, "rows of the data", f"were left out ({parts}); see {key}.")


def prompts_dropped(num: int, total: int, *, max_prompt_length: int) -> RunWarning | None:
    """Prompts of a policy run that were too long."""
    text = f"are longer than max_prompt_length={max_prompt_length} tokens and were dropped; raise max_prompt_length."
    return _lost("prompts_dropped", "max_prompt_length", num, total, "prompts", text)


def texts_cut(num: int, total: int, *, key: str, limit: int, what: str) -> RunWarning | None:
    """Texts that a reward model read without their end; `what` are they, such as "benchmark texts"."""
    return _lost("texts_cut", key, num, total, what, f"were cut to {key}={limit} tokens, at the end of the answer; raise {key}.")


def few_held_out(num: int, total: int, *, max_length: int, validation: str = "") -> RunWarning | None:
    """Held-out pairs that are measured, out of `total`; the others are too long. They are from the file `validation`, if there is one."""
    if num >= MIN_ROWS:
        return None
    key = "max_length" if total >= MIN_ROWS or (total and not num) else "data.validation" if validation else "data.held_out"
    remedy = f"give more rows by {key}" if key == "data.validation" else f"raise {key}"
    numbers = {"measured": num, "held_out": total}
    if not num:
        why = f"none of {total} held-out pairs fits into max_length={max_length} tokens" if total else "no pair is held out"
        return RunWarning(what="no_held_out", key=key, text=f"{why}, so there is no held-out accuracy; {remedy}.", numbers=numbers)
    others = f" (the others are longer than max_length={max_length})" if num < total else ""
    pairs = "1 pair" if num == 1 else f"{num} pairs"
    text = f"held-out accuracy rests on {pairs}{others}, fewer than {MIN_ROWS}: {_interval(num)}; {remedy}."
    return RunWarning(what="few_held_out", key=key, text=text, numbers=numbers)


def few_rows(sizes: Mapping[str, int], *, what: str, key: str, remedy: str, no_accuracy: Collection[str] = ()) -> RunWarning | None:
    """A benchmark or tasks (`what`) of which a part has too few rows to tell small differences; `sizes` by part.

    The score of the parts `no_accuracy` is none, so the interval is that of the smallest other one.
    """
    small = {part: size for part, size in sizes.items() if size < MIN_ROWS}
    if not small:
        return None
    named = ", ".join(f"{size} in {part}" for part, size in small.items())
    fewest = min((size for part, size in small.items() if part not in no_accuracy), default=0)
    interval = f": {_interval(fewest)} for an accuracy" if fewest else ""
    text = f"{what} has few rows ({named}), so that small differences are noise{interval}; {remedy}."
    return RunWarning(what="few_rows", key=key, text=text, numbers=small)


def few_steps(num_steps: int, *, num_pairs: int, batch_size: int) -> RunWarning | None:
    """A training of so few optimiser steps that it can hardly change the model."""
    if num_steps >= MIN_STEPS:
        return None
    steps = "1 step" if num_steps == 1 else f"{num_steps} steps"
    pairs = "1 pair makes" if num_pairs == 1 else f"{num_pairs} pairs make"
    text = f"{pairs} {steps} of batch_size={batch_size}, fewer than {MIN_STEPS}; lower batch_size or raise epochs."
    return RunWarning(what="few_steps", key="batch_size", text=text, numbers={"steps": num_steps, "pairs": num_pairs})


def not_learned(accuracy: float, *, num_pairs: float) -> RunWarning | None:
    """A reward model that ends no better than a coin on the pairs that it trains on."""
    if accuracy > 0.5:
        return None
    text = (
        f"at the end the accuracy on the last {num_pairs:.0f} training pairs is {accuracy:.2f}, no better than a coin; raise optim.lr or "
        "epochs, and look at the labels."
    )
    return RunWarning(what="not_learned", key="optim.lr", text=text, numbers={"accuracy": accuracy, "pairs": num_pairs})


def answers_cut(eos_rate: float, *, where: str, key: str, limit: int | None = None) -> RunWarning | None:
    """Most answers ended at the token limit `key`, which is `limit`; `where` says when or which, such as "in batch 3"."""
    if 1 - eos_rate <= MAX_CUT:
        return None
    at = key if limit is None else f"{key}={limit}"
    text = f"{where} {1 - eos_rate:.0%} of the answers were cut by {at} before their end; raise {key}."
    return RunWarning(what="answers_cut", key=key, text=text, numbers={"cut": 1 - eos_rate})


def equal_scores(num_equal: int, num_batches: int, *, batch: int, eos_rate: float, penalised: bool) -> RunWarning | None:
    """Batches whose answers all have one score: `num_equal` of the `num_batches` so far, the last of them `batch`.

    With `penalised`, answers that were cut have a score of their own, which explains it if all were cut.
    """
    if not num_equal or num_equal < MAX_EQUAL_BATCHES * num_batches:
        return None
    cut = penalised and eos_rate == 0
    remedy = (
        "all were cut, and shaping.missing_eos gives these one score: raise max_new_tokens"
        if cut
        else "look at the reward and the prompts, raise temperature or batch_size"
    )
    text = f"in batch {batch} all answers have the same score (score_std is 0), so there is nothing to learn from; {remedy}."
    key = "max_new_tokens" if cut else "reward"
    return RunWarning(what="equal_scores", key=key, text=text, numbers={"batches": num_equal, "of": num_batches})


def kl_jump(kl: float, before: float, *, batch: int) -> RunWarning | None:
    """The KL to the reference in nats per completion leapt from one batch to the next."""
    if not (kl > KL_FLOOR and kl > KL_JUMP * before):
        return None
    text = (
        f"in batch {batch} the KL to the reference jumped from {before:.3g} to {kl:.3g} nats per completion; lower optim.lr, raise "
        "kl.beta, or end such runs by kl.stop."
    )
    return RunWarning(what="kl_jump", key="optim.lr", text=text, numbers={"before": before, "kl": kl, "batch": batch})


def untrained_is_best(best_metric: str, value: float | None, kl: float) -> RunWarning | None:
    """No checkpoint of a policy beats the policy before training; `kl` is that of its last batch."""
    moved = kl >= KL_MOVED
    # An estimate from samples can come out below 0, which no KL is.
    still = "its distance from its start cannot be told from 0" if kl < 0 else f"it hardly moved from its start ({kl:.2g} nats)"
    remedy = (
        f"it moved {kl:.3g} nats from its start and got no better: lower optim.lr, raise kl.beta, or look at the reward"
        if moved
        else f"{still}: raise optim.lr or num_batches"
    )
    at = "" if value is None else f" ({in_points(best_metric, value)})"
    text = f"no checkpoint is better than the untrained policy by {best_metric}{at}; {remedy}."
    return RunWarning(what="untrained_is_best", key="optim.lr", text=text, numbers={"kl": kl} | ({} if value is None else {"best": value}))


def reward_texts_cut(share: float, *, batch: int) -> RunWarning | None:
    """Texts that reward models cut to their length limit while the policy trains, so that their rewards ignore the end of the answer."""
    if not share:
        return None
    text = f"in batch {batch} reward models cut {share:.1%} of the texts to their length limit and ignored the rest; lower max_new_tokens."
    return RunWarning(what="reward_texts_cut", key="max_new_tokens", text=text, numbers={"cut": share})


def answers_skipped(share: float, *, batch: int) -> RunWarning | None:
    """Answers that a verifier could not judge while the policy trains on its verdicts."""
    if not share:
        return None
    text = (
        f"in batch {batch} a verifier could not judge {share:.1%} of the answers, which have the mean of their prompt's other answers as "
        "their reward, or 0; the metric skipped says how many there are in every batch."
    )
    return RunWarning(what="answers_skipped", key="reward", text=text, numbers={"skipped": share})


def plain(what: str, key: str, texts: Sequence[str]) -> list[RunWarning]:
    """Warnings that others have put into words."""
    return [RunWarning(what=f"{what}-{number}" if number > 1 else what, key=key, text=text) for number, text in enumerate(texts, 1)]


def _lost(what: str, key: str, num: int, total: int, of_what: str, text: str) -> RunWarning | None:
    if num <= MAX_LOST * total:
        return None
    return RunWarning(
        what=what, key=key, text=f"{num} of {total} {of_what} ({num / total:.0%}) {text}", numbers={"num": num, "total": total}
    )


def _interval(num: int) -> str:
    """What a number of rows means for an accuracy."""
    return f"95% interval of up to +-{100 * (wilson(0.5, num)[1] - 0.5) if num else 50:.0f} points"
