"""What a study's reward models are used for: which one each use takes, what is shared, and what is refused before any work."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch.compose import composed
from launch.parallel.scheduler import Job, Same
from launch.schema import RMJob, StudyJob
from launch.studies import settled
from launch.studies.plan import plan
from launch.studies.seeds import at_seeds, plan_seeds
from tests.launch.tiny_study import chosen

LINES = ("model=ridge data=union,atlas data.held_out=0.1", "model=coast data=atlas data.held_out=0.1")


def study_of(folder: Path, *, ppo: str = "{}", bon: str = "{}", lines: Sequence[str] = LINES, more: Sequence[str] = ()) -> StudyJob:
    """A study with these uses, written as in an experiment's file."""
    listed = "".join(f"  - {line}\n" for line in lines)
    text = f"# @package _global_\nstudy: s\nembedded: true\ncommon: [tracker=files]\nreward_models:\n{listed}ppo: {ppo}\nbon: {bon}\n"
    return composed(StudyJob, [*chosen(folder, text), *more]).job


def record(name: str, rb2: float, rb1: float, held_out: float) -> dict[str, Any]:
    final = {"rewardbench2/overall": rb2, "rewardbench1/overall": rb1, "held_out/accuracy": held_out}
    return {"dir": f"runs/s/rm-{name}", "id": name, "final": final, "lineage": {"base": name}}


RESULTS: dict[str, object] = {
    "rm-01": record("one", 0.7, 0.6, 0.9),
    "rm-02": record("two", 0.6, 0.9, 0.8),
    "rm-03": record("three", 0.5, 0.5, 0.7),
    "pools": {"dir": "runs/s/bon", "pools": "runs/s/pools"},
}


def jobs_of(folder: Path, *, ppo: str = "{}", bon: str = "{}", more: Sequence[str] = ()) -> dict[str, Job]:
    return {job.key: job for job in plan(study_of(folder, ppo=ppo, bon=bon, more=more), folder).jobs}


def overrides_of(task: object) -> tuple[str, ...]:
    assert isinstance(task, partial)
    return task.args[1]


def test_each_use_takes_the_reward_model_of_its_criterion_and_equal_choices_share_one_run(tmp_path: Path) -> None:
    uses = "{two: {reward: {by: rewardbench2}}, one: {reward: {by: rewardbench1}}, out: {reward: {by: held_out}}}"
    jobs = jobs_of(tmp_path, ppo=uses)
    assert "reward.path='runs/s/rm-one'" in overrides_of(jobs["ppo-two"].task(RESULTS))
    assert "reward.path='runs/s/rm-two'" in overrides_of(jobs["ppo-one"].task(RESULTS))
    assert jobs["ppo-out"].task(RESULTS) == Same(key="ppo-two")
    assert set(jobs["ppo-out"].any_of) == {"rm-01", "rm-02", "rm-03"}


def test_uses_of_other_settings_share_no_run(tmp_path: Path) -> None:
    uses = "{two: {reward: {by: rewardbench2}}, long: {reward: {by: held_out}, overrides: [num_batches=90]}}"
    jobs = jobs_of(tmp_path, ppo=uses)
    assert "num_batches=90" in overrides_of(jobs["ppo-long"].task(RESULTS))


def test_best_of_n_takes_a_chosen_reward_model_too(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, bon="{out: {reward: {by: held_out}}, again: {reward: {by: rewardbench2}}}")
    assert "rewards=['runs/s/rm-one']" in overrides_of(jobs["bon-out"].task(RESULTS))
    assert jobs["bon-again"].task(RESULTS) == Same(key="bon-out")


def test_a_draw_is_that_of_the_studys_seed_unless_it_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {
        seed: overrides_of(jobs_of(tmp_path, ppo="{a: {reward: {by: random}}}", more=[f"seed={seed}"])["ppo-a"].task(RESULTS))[-1]
        for seed in range(6)
    }
    assert len(set(drawn.values())) > 1
    assert "by chance (seed 5)" in capsys.readouterr().err
    own = jobs_of(tmp_path, ppo="{a: {reward: {by: random, seed: 2}}}", more=["seed=5"])
    assert overrides_of(own["ppo-a"].task(RESULTS))[-1] == drawn[2]


def test_a_recipe_is_trained_from_the_policys_own_model_unless_it_was_already(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, ppo="{a: {reward: {by: rewardbench2}}, b: {reward: {by: rewardbench2, recipe: true}}}")
    job = composed(RMJob, overrides_of(jobs["rm-for-ppo-b"].task(RESULTS))).job
    assert (Path(job.model.path).name, job.data.name, job.data.held_out) == ("coast", "union", 0.1)
    # By RewardBench 1 the second wins, on atlas, and the third is the same on coast.
    jobs = jobs_of(tmp_path, ppo="{b: {reward: {by: rewardbench1, recipe: true}}}")
    assert jobs["rm-for-ppo-b"].task(RESULTS) == Same(key="rm-03")
    trained = RESULTS | {"rm-for-ppo-b": RESULTS["rm-03"]}
    assert "reward.path='runs/s/rm-three'" in overrides_of(jobs["ppo-b"].task(trained))


def test_two_uses_of_one_recipe_train_it_once(tmp_path: Path) -> None:
    uses = "{a: {reward: {by: rewardbench2, recipe: true}}, b: {reward: {by: held_out, recipe: true}}}"
    jobs = jobs_of(tmp_path, ppo=uses)
    assert jobs["rm-for-ppo-b"].task(RESULTS) == Same(key="rm-for-ppo-a")
    both = RESULTS | {"rm-for-ppo-a": record("new", 0, 0, 0), "rm-for-ppo-b": record("new", 0, 0, 0)}
    assert jobs["ppo-b"].task(both) == Same(key="ppo-a")


def test_a_use_without_any_score_fails_and_leaves_the_others(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, ppo="{a: {reward: {by: rewardbench2}}, b: {reward: {by: held_out}}}")
    bare = {key: {**value, "final": {"rewardbench2/overall": 0.5}} for key, value in RESULTS.items() if isinstance(value, dict)}
    assert overrides_of(jobs["ppo-a"].task(bare))
    with pytest.raises(ValueError, match="none of runs/s/rm-one, runs/s/rm-two, runs/s/rm-three has a finite score on held-out accuracy"):
        jobs["ppo-b"].task(bare)


@pytest.mark.parametrize(
    ("uses", "lines", "said"),
    [
        ("{a: {reward: {by: held_out}}}", ["data=atlas", "data=union data.held_out=0.1"], r"rm-01 will have none; add data\.held_out=0\.1"),
        (
            "{a: {reward: {by: rewardbench1}}}",
            ["data=atlas hooks.rewardbench1=''"],
            r"ppo\.a\.reward\.by=rewardbench1.*add hooks\.rewardbench1",
        ),
        ("{a: {reward: {}}}", ["data=atlas hooks=none"], r"ppo\.a\.reward\.by=rewardbench2.*add hooks\.rewardbench2=FILE"),
    ],
)
def test_a_score_that_no_reward_model_will_have_is_refused_before_any_work(uses: str, lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        plan(study_of(tmp_path, ppo=uses, lines=lines), tmp_path)


def test_sections_that_rewardbench_1_lacks_are_refused_where_it_chooses(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "1", "subset": "hep-go", "prompt": "a", "chosen": "b", "rejected": "c"}\n')
    line = f"data=atlas hooks=none hooks.rewardbench1={rows}"
    with pytest.raises(ValueError, match=r"ppo\.a\.reward\.by=rewardbench1 needs an overall score.*no rows of Chat, Chat Hard, Safety"):
        plan(study_of(tmp_path, ppo="{a: {reward: {by: rewardbench1}}}", lines=[line], more=["embedded=false"]), tmp_path)


@pytest.mark.parametrize(
    ("ppo", "more", "said"),
    [
        ("{a: {reward: {by: random, pick: worst}}}", [], r"reward\.pick=worst does nothing with reward\.by=random"),
        ("{a: {reward: {by: held_out, seed: 1}}}", [], r"reward\.seed=1 is of a draw"),
        ("{a: {}, b: {}}", ["seeds=[1,1]"], r"seeds=\[1, 1\] has one twice"),
        ("{a: {}}", ["seeds=[1,2]"], r"two entries or more in ppo, or in bon"),
        (
            "{a: {}, b: {}}",
            ["seeds=[4,5]", "parts=[rm,bon]"],
            r"among the parts.*A part of one seed is done by study=s-seed4 seed=4 seeds=\[\]",
        ),
        ("{}", ["parts=[ppo]"], r"parts=\[ppo\] leaves nothing to do: ppo and policies are empty"),
    ],
)
def test_a_choice_without_a_meaning_is_refused(ppo: str, more: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        study_of(tmp_path, ppo=ppo, more=more)


def test_uses_can_be_named_on_the_command_line_and_mistakes_in_them_are_refused_with_their_key(tmp_path: Path) -> None:
    study = study_of(tmp_path, more=["ppo.mine.reward.by=held_out", "ppo.mine.overrides=['num_batches=3']", "bon.again.reward.by=random"])
    jobs = {job.key: job for job in plan(study, tmp_path).jobs}
    assert "num_batches=3" in overrides_of(jobs["ppo-mine"].task(RESULTS))
    assert "bon-again" in jobs
    mistakes = {
        "ppo.mine.reward.by=held_ot": r"ppo\.mine\.reward\.by.*held_ot",
        "ppo.mine.rewards.by=random": r"ppo\.mine\.rewards is no setting of a use of a reward model; choose among reward, overrides",
        "bon.mine=held_out": r"bon\.mine=held_out is no use of a reward model; give its settings, as in bon\.mine\.reward\.by=held_out",
        "ppo.mine.reward.seed=3": r"reward\.seed=3 is of a draw",
    }
    for mistake, said in mistakes.items():
        with pytest.raises(ValueError, match=said):
            study_of(tmp_path, more=[mistake])


def test_a_reward_model_beside_the_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ppo\.a\.overrides holds reward\.path=x, and the study chooses the reward model"):
        plan(study_of(tmp_path, ppo="{a: {overrides: [reward.path=x]}}"), tmp_path)


def test_every_seed_has_a_study_of_its_own_and_its_jobs_wait_for_none_of_another(tmp_path: Path) -> None:
    text = (
        "# @package _global_\nstudy: s\nseeds: [3, 5]\nembedded: true\nworld: {seed: '${seed}', pairs: 8}\n"
        "reward_models: [model=coast data=atlas]\nppo: {a: {}, b: {}}\n"
    )
    whole = composed(StudyJob, [*chosen(tmp_path, text), f"runs_dir={tmp_path}"])
    studies = at_seeds(whole)
    assert {seed: (one.study, one.seed, one.world.seed, one.world.pairs) for seed, one in studies.items()} == {
        3: ("s-seed3", 3, 3, 8),
        5: ("s-seed5", 5, 5, 8),
    }
    plans = plan_seeds(studies)
    jobs = {job.key: job for own in plans.values() for job in own.jobs}
    assert (jobs["ppo-a@5"].after, jobs["ppo-a@5"].any_of) == (("policy-coast@5",), ("rm-01@5",))
    results = {"rm-01@3": record("x", 0.1, 0, 0), "rm-01@5": record("y", 0.2, 0, 0)}
    assert "reward.path='runs/s/rm-y'" in overrides_of(jobs["ppo-a@5"].task(results))
    assert jobs["ppo-b@5"].task(results) == Same(key="ppo-a@5")


def test_uses_that_pick_alike_go_by_their_names_in_what_is_said_of_them(tmp_path: Path) -> None:
    uses = "{a: {reward: {by: random}}, b: {reward: {by: random, seed: 7}}, c: {reward: {by: rewardbench2}}}"
    study = study_of(tmp_path, ppo=uses, bon="{d: {reward: {by: random}}}")
    labels = settled._labels(plan(study, tmp_path).uses)  # pyright: ignore[reportPrivateUsage]
    assert labels == {"ppo.a": "ppo.a", "ppo.b": "ppo.b", "ppo.c": "RewardBench 2", "bon.d": "chance"}


def test_seeds_of_before_that_are_not_asked_for_are_named(tmp_path: Path) -> None:
    for name in ("s-seed0", "s-seed3", "s-seed5", "s-seeds", "s-seed5-more", "other-seed9"):
        (tmp_path / name).mkdir()
    study = study_of(tmp_path, ppo="{a: {}, b: {}}", more=[f"runs_dir={tmp_path}", "seeds=[3]"])
    said = list(settled._elsewhere(study, [3]))  # pyright: ignore[reportPrivateUsage]
    assert said == ["Not in this report: what was run at the seeds 0, 5; seeds=[0,3,5] puts all of it together."]
    assert list(settled._elsewhere(study, [0, 3, 5])) == []  # pyright: ignore[reportPrivateUsage]


def test_best_of_n_over_seeds_is_that_of_the_hooks_or_of_the_pools_given_to_a_reward_model_later_and_a_lack_is_said(tmp_path: Path) -> None:
    study = study_of(tmp_path, ppo="{a: {reward: {by: rewardbench2}}, b: {reward: {by: held_out}}}", more=["seeds=[0,1]"])
    uses = plan(study, tmp_path).uses
    lineage = dict.fromkeys(("reward_run", "reward_base", "base"), "")
    made = {"job": "ppo", "dir": f"{tmp_path}/ppo-a-0", "id": "p", "lineage": lineage, "status": "finished"}
    first, other = record("one", 0.7, 0.6, 0.8), record("two", 0.6, 0.9, 0.9)
    first["final"]["bon/average@4"] = 0.25
    given = {"two": {"run": "two", "path": "x", "base": ""}}
    chose = {"job": "bon", "final": {"bon/two/average@4": 0.5}, "lineage": {"reward_models": given}}
    results: dict[str, object] = {"rm-01": first, "rm-02": other, "ppo-a": made, "ppo-b": made}
    found = settled.summarize(study, {0: (uses, {**results, "bon-rm-02": chose}), 1: (uses, results)})
    worth = {(row["seed"], row["criterion"]): row["worth"].get("best of 4") for row in found["picks"]}
    assert worth == {(0, "ppo.a"): 0.25, (0, "ppo.b"): 0.5, (1, "ppo.a"): 0.25, (1, "ppo.b"): None}
    [said] = [note for note in found["notes"] if "best-of-N" in note]
    assert said.startswith("ppo.b is not compared in best-of-N at seed 1: the reward model that it took has not chosen from the")
