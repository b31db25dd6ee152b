"""Tasks within a budget: a part of the prompts, by what a probe times, and the same part ever after."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bon.rows import PoolRow
from core.hooks.run_context import RunContext
from core.process.world import alone
from core.records import BenchmarkRow, CheckpointSaved, Completion, Dialogue, Preference, Prompt, Sampling, user
from evalhooks.budget import Budget, Probe, rows_within_budget, within_budget
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.measured_rows import FILE, kept_sizes, rows_texts
from evalhooks.row_share import LORA_PASSES, Scored, Trained, row_share
from evalhooks.tasks.task import Task


class SlowGenerator:
    """Takes a second for every token that it may draw, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        self.now += len(prompts) * sampling.n * sampling.max_new_tokens
        return [[Completion(text="a", token_ids=(1,), finished=True)] * sampling.n for _ in prompts]


def prompts(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(id=str(place), dialogue=user(f"{place}?")) for place in range(count))


class HalfRight:
    """Multiple choice of which every prompt counts a half; `asked` tells how many were asked each time."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def of_prompts(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Any]:
        self.asked.append(len(prompts))
        return [0.5] * len(prompts)

    def metric(self, prompts: Sequence[Prompt], measured: Sequence[Any]) -> float:
        return sum(measured) / len(prompts)


TASKS = {
    name: Task(name=name, prompts=prompts(count), verifier=lambda text, reference: 1.0) for name, count in (("long", 100), ("short", 20))
}


def measured(run_dir: Path, share: float, said: list[str] | None = None) -> dict[str, list[str]]:
    generator = SlowGenerator()
    budget = Budget(share=share, num_episodes=480, prompts=prompts(50), sampling=Sampling(max_new_tokens=5))
    say = (said if said is not None else []).append

    def measure(task: Task) -> object:
        return generator.generate([prompt.dialogue for prompt in task.prompts], Sampling(n=2, max_new_tokens=10))

    probe = Probe(generator=generator, measure=measure, world=alone(), say=say, clock=lambda: generator.now)
    found = within_budget(budget, TASKS, probe, run_dir)
    return {name: [prompt.id for prompt in task.prompts] for name, task in found.items()}


def test_the_share_is_what_the_probe_finds(tmp_path: Path) -> None:
    said = list[str]()
    found = measured(tmp_path, 0.25, said)
    # Training draws 480 episodes of 5 s between checkpoints, a quarter of which is 600 s; 120 prompts take 2 x 10 s each, 2400 s in all.
    assert {name: len(own) for name, own in found.items()} == {"long": 25, "short": 5}
    # The probe draws a token, 8 x 5 of training's, and 8 x 2 x 10 of each task's.
    once = "finding that out took 6 min 1 s, once"
    assert said[0] == f"hooks.budget=0.25: every checkpoint is measured on 25 of 100 prompts of long, 5 of 20 prompts of short; {once}"
    assert said[1].startswith("warning: what hooks.budget leaves has few rows (25 in long), so that small differences are noise")
    assert len(said) == 2
    assert found["long"] != [str(place) for place in range(25)]  # a draw, not the first rows


def test_a_resumed_run_measures_the_same_prompts_whatever_a_probe_would_find_now(tmp_path: Path) -> None:
    first = measured(tmp_path, 0.25)
    assert measured(tmp_path, 1.0) == first
    for broken in ("{", '{"share": 2.0}', '{"share": null}', "{}"):
        (tmp_path / FILE).write_text(broken)
        said = list[str]()
        assert len(measured(tmp_path, 0.5, said)["long"]) == 50
        assert "the probe is made again" in said[0]


@pytest.mark.parametrize(("share", "sizes"), [(1.0, (100, 20)), (1e-6, (1, 1))])
def test_nothing_is_left_out_without_need_and_no_task_is_left_without_a_prompt(
    tmp_path: Path, share: float, sizes: tuple[int, int]
) -> None:
    found = measured(tmp_path, share)
    assert (len(found["long"]), len(found["short"])) == sizes


def test_a_policy_is_measured_on_the_same_part_after_a_resume_and_its_cost_is_logged(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    chosen = HalfRight()
    drawn = Task(name="drawn", prompts=prompts(40), verifier=lambda text, reference: 1.0)
    tasks = {"drawn": drawn, "chosen": replace(drawn, name="chosen", choices=chosen)}
    event = CheckpointSaved(step=1, num_steps=1, path=tmp_path, run_dir=tmp_path, model=policy, tokenizer=tokenizer)

    def session(num_episodes: int) -> tuple[PolicyHook, dict[str, float]]:
        budget = Budget(share=0.5, num_episodes=num_episodes, prompts=prompts(8), sampling=Sampling(max_new_tokens=2))
        hook = PolicyHook(tasks=tasks, sampling=Sampling(max_new_tokens=2), budget=budget, say=lambda line: None)
        return hook, dict(hook.on_checkpoint(event))

    first, metrics = session(8)
    assert metrics["hooks/tasks_seconds"] > 0
    assert metrics["downstream/average"] == 0.75
    assert 1 <= len(first.tasks["drawn"].prompts) < 40
    resumed, _ = session(100_000)
    assert resumed.tasks["drawn"].prompts == first.tasks["drawn"].prompts
    assert chosen.asked == [8, *[len(first.choices["chosen"].prompts)] * 2]  # the probe's, and those of each session


def rows(subset: str, count: int) -> list[BenchmarkRow]:
    """Rows of 100 characters: a prompt of 20 and four completions of 20."""
    texts = tuple(f"{'x' * 19}{number}" for number in range(4))
    return [BenchmarkRow(id=f"{subset}{place}", prompt="p" * 20, completions=texts, num_correct=1, subset=subset) for place in range(count)]


PAIRS = [Preference(prompt=user("p" * 20), chosen="c" * 30, rejected="r" * 50)] * 300
SCORED = Scored(
    rewardbench2=[row for subset, count in (("Math", 100), ("Safety", 10), ("Focus", 2)) for row in rows(subset, count)],
    rewardbench1=(),
    pools={"sums": [PoolRow(id=str(i), prompt=user("p" * 20), completions=("a" * 40,) * 2) for i in range(38)]},
    held_out=PAIRS[:50],
)


ALL = Trained(pairs=PAIRS, shares_N=[1.0] * 300, epochs=0.5)


def within(run_dir: Path, budget: float, trained: Trained = ALL, said: list[str] | None = None) -> Scored:
    return rows_within_budget(budget, lambda: trained, SCORED, RunContext(dir=run_dir, say=(said if said is not None else []).append))


def test_a_reward_models_hooks_score_what_their_texts_may_cost_of_every_domain(tmp_path: Path) -> None:
    said = list[str]()
    found = within(tmp_path, 0.1, said=said)
    # Padded, training passes 120 characters a pair, 150 pairs between checkpoints, three times: 54,000, a tenth of which is 5,400. Rows of
    # the benchmark have 160, of the others 120. Each part rounds its own share, so shares in proportion (0.1896) would give 19 + 2 + 1 of
    # the benchmark, 9 pairs and 7 prompts: 22 x 160 + 16 x 120 = 5,440. Just below 0.185 it is a row of Math less: 5,280.
    # Where prompts are shared all have 100: 45,000, a tenth of which is above 37 x 100.
    assert found.sizes == {"rewardbench2": 18 + 2 + 1, "held_out": 9, "bon/sums": 7}
    assert Counter(row.subset for row in found.rewardbench2) == {"Math": 18, "Safety": 2, "Focus": 1}
    text = "21 of 112 rows of rewardbench2, 9 of 50 rows of held_out, 7 of 38 rows of bon/sums"
    assert said == [f"warning: hooks.budget=0.1: every checkpoint is measured on {text}"]
    assert rows_texts(kept_sizes(tmp_path)) == text.split(", ")
    again = within(tmp_path, 1.0, Trained(pairs=PAIRS[:1], shares_N=[1.0], epochs=9))
    assert again == found  # as a resumed run has it


def test_what_a_smaller_share_leaves_is_part_of_what_a_larger_one_does() -> None:
    ties = [
        replace(row, id=f"{kind}:{number}", subset="Ties")
        for number in range(9)
        for kind, row in zip(("tied", "ref"), rows("", 2), strict=True)
    ]
    whole = replace(SCORED, rewardbench2=[*SCORED.rewardbench2, *ties])
    shares = [whole.drawn(share / 40) for share in range(1, 41)]
    for smaller, larger in pairwise(shares):
        assert {row.id for row in smaller.rewardbench2} <= {row.id for row in larger.rewardbench2}
        assert {row.id for row in smaller.pools["sums"]} <= {row.id for row in larger.pools["sums"]}
        pairs = Counter(row.id.partition(":")[2] for row in smaller.rewardbench2 if row.subset == "Ties")
        assert {*pairs.values()} == {2}, "pairs of Ties stay together"
    assert shares[0].sizes["rewardbench2"] < shares[20].sizes["rewardbench2"] < shares[-1].sizes["rewardbench2"] == len(whole.rewardbench2)


def test_pairs_that_are_left_out_or_cut_are_not_counted_as_trained(tmp_path: Path) -> None:
    # A third is left out, a third is cut to half its tokens: half of the characters remain, of which the budget is worth 2,700. A share of
    # 0.1 leaves 10 + 1 + 1 rows of the benchmark, 5 pairs and 3 prompts: 2,880. Just below it is a pair less, 2,760, and just below 0.095 a
    # row of Math: 2,600.
    trained = Trained(pairs=PAIRS, shares_N=[0.0, 0.5, 1.0] * 100, epochs=0.5)
    assert within(tmp_path, 0.1, trained).sizes == {"rewardbench2": 9 + 1 + 1, "held_out": 4, "bon/sums": 3}


def test_under_an_adapter_training_costs_less_and_so_hooks_score_less(tmp_path: Path) -> None:
    # Two passes instead of three: 3,600, which 13 + 1 + 1 rows, 6 pairs and 4 prompts cost just below 5 / 38.
    found = within(tmp_path, 0.1, replace(ALL, passes=LORA_PASSES))
    assert found.sizes == {"rewardbench2": 13 + 1 + 1, "held_out": 6, "bon/sums": 4}


def test_where_a_row_of_every_part_costs_more_than_the_budget_it_is_scored_and_said(tmp_path: Path) -> None:
    said = list[str]()
    assert within(tmp_path, 0.001, said=said).sizes == {"rewardbench2": 3, "held_out": 1, "bon/sums": 1}
    # 3 x 160 + 2 x 120 of 54,000
    assert said[1].startswith("warning: hooks.budget=0.001 cannot be held: a row of every domain and task costs about 1% of the time")
    assert row_share(0.001, ALL, SCORED).cost == pytest.approx(720 / 54_000)


def test_a_budget_that_is_ample_leaves_nothing_out_and_says_nothing(tmp_path: Path) -> None:
    said = list[str]()
    assert within(tmp_path, 1.0, said=said) is SCORED
    assert not said
    assert rows_texts(kept_sizes(tmp_path)) == []


def test_a_policys_budget_that_a_prompt_of_every_task_exceeds_is_said(tmp_path: Path) -> None:
    said = list[str]()
    measured(tmp_path, 1e-3, said)
    # A prompt takes 2 x 10 s, and so those of two tasks 40 s, of 480 x 5 s.
    assert said[0].startswith("hooks.budget=0.001 cannot be held: a prompt of every task takes about 2% of the time that training draws")
