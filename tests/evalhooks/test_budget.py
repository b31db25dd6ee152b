"""Tasks within a budget: a part of the prompts, by what a probe times, and the same part ever after."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from core.process.world import alone
from core.records import CheckpointSaved, Completion, Dialogue, Prompt, Sampling, user
from evalhooks.budget import FILE, Budget, Probe, within_budget
from evalhooks.checkpoints import PolicyHook
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
    assert said == ["hooks.budget=0.25: every checkpoint is measured on 25 of 100 prompts of long, 5 of 20 prompts of short"]
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
    asked = list[int]()

    def chosen(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> float:
        asked.append(len(prompts))
        return 0.5

    drawn = Task(name="drawn", prompts=prompts(40), verifier=lambda text, reference: 1.0)
    tasks = {"drawn": drawn, "chosen": replace(drawn, name="chosen", measure=chosen)}
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
    assert asked == [8, *[len(first.choices["chosen"].prompts)] * 2]  # the probe's, and those of each session
