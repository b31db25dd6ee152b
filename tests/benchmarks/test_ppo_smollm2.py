"""What SmolLM2 is trained on, measured by and drawn from follows from its files; no model is fetched."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.ppo import smollm2 as smol
from core.data.chat import pad_id
from core.data.rows import read_rows
from evalhooks.tasks.verifiers import gsm8k
from launch.entry import composed
from launch.schema import PPOJob, RMJob
from tests.fakes import tiny_llama


def row(number: int, *, steps: int = 1, more: str = "") -> dict[str, str]:
    notes = " ".join(f"{step}+1=<<{step}+1={step + 1}>>{step + 1}" for step in range(steps))
    return {"question": f"Question {number}?{more}", "answer": f"{notes}\n#### {steps}"}


def rows_of(file: Path) -> list[Any]:
    return [found for _, found in read_rows(file)]


def test_a_solution_loses_its_notes_and_nothing_else() -> None:
    assert smol.solution("It costs 2*3=$<<2*3=6>>6, < 7.\nx<<1+1=2>>2\n#### 6") == "It costs 2*3=$6, < 7.\nx2\n#### 6"


def test_easy_questions_have_one_or_two_steps_and_are_short_without_the_notes() -> None:
    # "Question 1?" is 11 characters, "0+1=1\n#### 1" is 12: 23 in all.
    rows = [row(1), row(2, steps=0), row(3, steps=2), row(4, steps=3), row(5, more="!")]
    assert sorted(found["id"] for found in smol.easy(rows, 23)) == ["1"]
    assert sorted(found["id"] for found in smol.easy(rows, 200)) == ["1", "3", "5"]


def test_no_question_is_in_two_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol, "NUM_ASKED", 10)
    monkeypatch.setattr(smol, "NUM_SFT", 25)
    for name, numbers in ((smol.TRAIN, range(30)), (smol.TEST, range(100, 105))):
        (tmp_path / name).write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    smol.make_data(tmp_path, tmp_path)
    lists = [[found["question"] for found in rows_of(tmp_path / f"{name}.jsonl")] for name in ("asked", "sft", "held-out")]
    assert [len(questions) for questions in lists] == [10, 20, 5]
    assert len({question for questions in lists for question in questions}) == 35


def test_prompts_are_the_shortest_of_sft_and_each_question_with_a_wrong_answer_makes_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smol, "NUM_PROMPTS", 1)
    # Without its notes the second solution is the shorter one: "q" and "1+1=2" against "qq" and "1+1=2".
    learned = [{"question": "qq", "answer": "1+1=2"}, {"question": "q", "answer": "1+1=<<1+1=2>>2"}]
    rights = {"never": [0.0, 0.0], "once": [1.0, 0.0], "always": [1.0, 1.0]}
    asked = [{"question": name, "answer": "1+1=<<1+1=2>>2", "answers": ["a", "b"], "right": own} for name, own in rights.items()]
    smol.write(tmp_path / "sft.jsonl", learned)
    smol.write(tmp_path / "answers.jsonl", asked)
    smol.make_prompts_and_pairs(tmp_path)
    assert rows_of(tmp_path / "prompts.jsonl") == [learned[1]]
    assert rows_of(tmp_path / "pairs.jsonl") == [
        {"prompt": "never", "chosen": "1+1=2", "rejected": "a"},
        {"prompt": "once", "chosen": "1+1=2", "rejected": "b"},
    ]


def test_the_policy_learns_the_solution_and_its_end_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        str(tokenizer.chat_template) + "{% if not add_generation_prompt %}{{ ' ' }}{% endif %}"
    )  # behind EOS, as SmolLM2's line feed
    [(ids, start)] = smol.sft_examples([{"question": "the cat", "answer": "a <<1+1=2>>dog"}], tokenizer)
    assert ids[-1] == tokenizer.eos_token_id
    assert str(tokenizer.decode(ids[start:-1])).strip() == "a dog"
    assert "cat" in str(tokenizer.decode(ids[:start]))


def test_the_loss_of_sft_is_the_mean_over_tokens_however_many_go_through_at_once(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_llama(tokenizer))
    batch = [([5, 6, 7, 8], 2), ([9, 10, 11, 12, 13, 14, 15], 3)]
    found = []
    for tokens in (1, 1024):
        monkeypatch.setattr(smol, "PASS_TOKENS", tokens)
        model.zero_grad()
        loss = smol.sft_pass(model, batch, pad_id(tokenizer))
        gradient_VH = model.get_parameter("lm_head.weight").grad
        assert gradient_VH is not None
        found.append((loss, gradient_VH.clone()))
    (alone, alone_VH), (together, together_VH) = found
    # By hand, without padding: tokens 2 and 3 of the first and 3 to 6 of the second row, each told by the one before.
    with torch.no_grad():
        logprobs = [model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids, _ in batch]
    told = [-logprobs[i][place - 1, ids[place]].item() for i, (ids, start) in enumerate(batch) for place in range(start, len(ids))]
    assert len(told) == 6
    assert alone == pytest.approx(sum(told) / 6, rel=0.02)  # bf16
    assert together == pytest.approx(alone, rel=0.02)
    torch.testing.assert_close(alone_VH, together_VH, rtol=0.1, atol=2e-3)


def test_what_was_measured_is_told_with_its_error_over_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prompts", "held-out"):
        for when, rights in (("before", [[0.0, 0.0], [1.0, 0.0]]), ("after", [[0.0, 1.0], [1.0, 1.0]])):
            smol.write(tmp_path / f"{name}-{when}.jsonl", [{"right": own, "tokens": [3, 5]} for own in rights])
    smol.report(tmp_path)
    # Shares 0 and 50, then 50 and 100: deviation 50 / sqrt(2), error 25. Each question gains exactly 50.
    told = "2 questions, 4 answers to each: 25.0 ± 25.0 before, 75.0 ± 25.0 after, change 50.0 ± 0.0; 4 and 4 tokens"
    assert capsys.readouterr().out == f"prompts: {told}\nheld-out: {told}\n"


def test_smoothing_takes_the_neighbours_that_there_are() -> None:
    # (0 + 5 + 1) / 3, (0 + 5 + 1 + 2) / 4, (0 + 5 + 1 + 2 + 7) / 5, (5 + 1 + 2 + 7) / 4, (1 + 2 + 7) / 3.
    assert smol.smoothed([0.0, 5.0, 1.0, 2.0, 7.0], 5) == pytest.approx([2.0, 2.0, 3.0, 3.75, 10 / 3])


def test_minutes_follow_the_episodes_and_back() -> None:
    to_minutes, to_episodes = smol.between([0.0, 10.0, 20.0], [0.0, 1.0, 4.0])
    assert [to_minutes(5.0), to_minutes(15.0)] == [0.5, 2.5]
    assert to_episodes(2.5) == 15.0
    # Beyond the ends at the mean pace, 0.2 minutes an episode.
    assert to_minutes(30.0) == pytest.approx(6.0)


def test_the_picture_is_drawn_from_the_metrics_of_a_run(tmp_path: Path) -> None:
    measured = {f"train/reward/{smol.VERIFIER}": 0.5, "train/reward/rm": 0.1, "train/kl": 0.2}
    rows: list[dict[str, Any]] = [{"axis": "checkpoint/step", "checkpoint/step": 0, "time": 0.0, "downstream/gsm8k": 0.1}]
    rows += [{"axis": "train/step", "train/step": step, "time": 60.0 * step, **measured} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(found) + "\n" for found in rows))
    smol.draw(tmp_path, tmp_path / "pictures" / "curve.png")
    assert (tmp_path / "pictures" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_compose_and_weigh_the_verifier_most(tmp_path: Path) -> None:
    assert composed(RMJob, smol.rm_overrides(tmp_path)).job.data.held_out > 0
    job = composed(PPOJob, smol.ppo_overrides(tmp_path, tmp_path / "rm")).job
    assert list(job.terms) == [smol.VERIFIER, "rm"]
    assert job.terms[smol.VERIFIER].coefficient > job.terms["rm"].coefficient
    assert gsm8k("2+2=4\n#### 4", {"answer": "#### 4"}) == 1.0
