"""What is said of PPO runs follows from their files, and the other base differs in its tokens alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ppo import curves, learning
from benchmarks.ppo.curves import Curve
from benchmarks.ppo.other_base import TEMPLATE, VOCABULARY
from core.data.chat import encode_answered, encode_prompts
from core.records import user
from microworld.config import WorldConfig
from microworld.tokenizer import train_tokenizer
from microworld.world import corpus


def curve(downstream: Sequence[float], *, scores: list[float] | None = None, kl: float = 0.5, stopped: str = "") -> Curve:
    steps = [10 * place for place in range(len(downstream))]
    scores = scores or [float(step) for step in steps]
    return curves.Curve(steps=steps, downstream=list(downstream), scores=scores, kl_end=kl, target=0.5, stopped_because=stopped)


def write_run(folder: Path, *, status: str = "finished", wanted: str = "downstream/average") -> Path:
    """A run of 12 batches with checkpoints at 6 and 12, of which the first was written twice."""
    folder.mkdir()
    record = {"status": status, "identity": {"kl": {"target": 0.5}}, "stopped_because": ""}
    checkpoints = [(0, 0.5, -1.0), (6, 0.1, 9.0), (6, 0.6, 1.0), (12, 0.55, 2.0)]
    rows = [
        {"axis": "checkpoint/step", "checkpoint/step": step, wanted: value, "rm_score": score, "on_policy/rm_score": score + 0.5}
        for step, value, score in checkpoints
    ]
    rows += [{"axis": "train/step", "train/step": step, "train/kl": float(step)} for step in range(1, 13)]
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_curve_has_each_checkpoint_once_and_the_kl_of_the_last_ten_batches(tmp_path: Path) -> None:
    found = curves.read_curve(write_run(tmp_path / "run"))
    assert (found.steps, found.target) == ([0, 6, 12], 0.5)
    assert found.scores == [-0.5, 1.5, 2.5]
    assert found.downstream == pytest.approx([50, 60, 55])
    assert found.kl_end == 7.5  # the mean of 3 to 12


def test_a_run_that_cannot_be_read_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torn is running, not finished; start its command again"):
        curves.read_curve(write_run(tmp_path / "torn", status="running"))
    with pytest.raises(ValueError, match="blind has no downstream/average; its command needs tasks"):
        curves.read_curve(write_run(tmp_path / "blind", wanted="downstream/facts"))


def test_gain_counts_to_the_best_checkpoint_and_loss_from_there() -> None:
    found = curve([50, 58, 60, 57], scores=[0, 1, 2, 3])
    # 60 - 50; 57 - 50; of the 10 points, 60 - 57 = 3 are lost.
    assert (found.gain, found.change, found.lost) == (10, 7, pytest.approx(0.3))
    assert found.deceived
    assert not curve([50, 58, 60, 57], scores=[0, 1, 2, 1.5]).deceived


def test_a_run_that_only_loses_gains_nothing() -> None:
    found = curve([50, 30, 20])
    assert (found.gain, found.change, found.lost) == (0, -30, None)


def test_the_interval_of_paired_differences_is_student_s() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, error 1/sqrt(3); t for 95% and 2 degrees of freedom is 4.303.
    mean, half = curves.interval_of_difference([11, 12, 13], [10, 10, 10])
    assert (mean, half) == (2, pytest.approx(4.303 / 3**0.5, abs=1e-3))
    with pytest.raises(ValueError, match="one seed tells nothing"):
        curves.interval_of_difference([1], [2])


def test_a_replay_ends_where_the_stop_would_have_fired() -> None:
    found = curve([50, 60, 58, 56, 57, 55], scores=[0, 1, 2, 3, 4, 5])
    # Two falls in a row at steps 20 and 30; of steps 0, 20, 40 the last fell once; three in a row are nowhere.
    assert curves.replayed(found, 2, 1).steps == [0, 10, 20, 30]
    assert curves.replayed(found, 1, 2).downstream == [50, 58, 57]
    assert curves.replayed(found, 2, 1).stopped_because
    whole = curves.replayed(found, 3, 1)
    assert (whole.steps, whole.stopped_because) == (found.steps, "")


def holds(verdicts: list[Any]) -> list[bool]:
    return [verdict.holds for verdict in verdicts]


def test_a_good_reward_model_must_bring_eight_points_within_its_kl() -> None:
    # Gains of 7 and 9 are 8 in the mean; a KL of 0.6 is 1.2 times its target.
    assert holds(learning.verdicts({"good": [curve([50, 57], kl=0.6), curve([50, 59])]})) == [True, True]
    assert holds(learning.verdicts({"good": [curve([50, 57.9], kl=0.61)]})) == [False, False]


def test_every_flipped_run_must_end_lower() -> None:
    assert holds(learning.verdicts({"flipped": [curve([50, 51, 40])]})) == [True]
    assert holds(learning.verdicts({"flipped": [curve([50, 40]), curve([50, 50])]})) == [False]


def test_the_stop_must_fire_before_half_of_the_gain_is_lost() -> None:
    free = [curve([50, 60, 58, 52])]
    assert holds(learning.verdicts({"weak": free, "stopped": [curve([50, 60, 58, 56], stopped="fell")]})) == [True, True]
    for values, stopped in (([50, 60, 58, 55], "fell"), ([50, 60, 58, 56], ""), ([50, 48, 46], "fell")):
        assert holds(learning.verdicts({"weak": free, "stopped": [curve(values, stopped=stopped)]})) == [True, False]


def test_the_twins_are_compared_seed_by_seed() -> None:
    good = [curve([50, 60 + seed]) for seed in range(3)]
    close = [curve([50, 60 + seed + step]) for seed, step in enumerate((-1, 0, 2))]
    worse = [curve([50, 57 + seed + step]) for seed, step in enumerate((-0.1, 0, 0.1))]
    assert holds(learning.verdicts({"twin": good, "other tokenizer": close}))[-1]
    assert not holds(learning.verdicts({"twin": good, "other tokenizer": worse}))[-1]


def test_the_picture_and_the_table_show_runs_of_different_length(tmp_path: Path) -> None:
    arms = {"weak": [curve([50, 60, 58, 52])], "stopped": [curve([50, 60, 58, 57], stopped="fell"), curve([50, 61])]}
    file = curves.draw(arms, tmp_path / "new" / "curves.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    row = "| stopped | 50.0 | 60.0 (10) | 57.0 (30, stopped) | +10.0 | 30% | 0.00, 10.00, 30.00 | 0.50 / 0.5 |"
    assert learning.table(arms).splitlines()[3] == row
    # Two falls, at steps 20 and 30: 60 to 52 of a gain of 10.
    assert "| 2 | 1 | 30 | +10.0 80% |" in learning.settings_of_the_stop(arms["weak"])


def test_every_arm_is_a_configuration_that_the_commands_take() -> None:
    from launch.entry import composed
    from launch.schema import PPOJob, RMJob

    for arm in learning.ARMS.values():
        assert composed(RMJob, ["hooks.pools=", *arm.rm_overrides]).job.hooks.pools == ""
        assert composed(PPOJob, ["reward.path=some", *arm.ppo_overrides]).job.num_batches == 40


def test_prompts_of_the_other_template_are_beginnings_of_their_dialogues() -> None:
    rows = [row for _, row in zip(range(200), corpus(WorldConfig(), "coast"), strict=False)]
    tokenizer = train_tokenizer([text for row in rows for text in row.values()], vocab_size=VOCABULARY)
    tokenizer.chat_template = TEMPLATE
    prompts = [user(row["prompt"]) for row in rows]
    # Else the labels of the base's training would be cut in the wrong place.
    answered = encode_answered(tokenizer, prompts, [row["completion"] for row in rows])
    begun = encode_prompts(tokenizer, prompts)
    assert all(ids[: len(prompt)] == prompt for prompt, ids in zip(begun, answered, strict=True))
    assert tokenizer.decode(begun[0]) == f"User:\n{rows[0]['prompt']}<|end|>\nAssistant:\n"
