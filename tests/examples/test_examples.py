"""The files of examples/ do what they say."""

import json
from pathlib import Path

import pytest
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from examples import custom_hook, trl_callback
from rewardloop import BenchmarkRow, CheckpointSaved, FunctionScorer, Message, RewardModelScorer, read_metrics

ROOT = Path(__file__).parents[2]


def write_lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing\\w*` is deprecated:FutureWarning")  # TRL uses the old names
def test_the_trl_callback_measures_the_task_at_every_save_of_a_dpo_trainer(tmp_path: Path, policy_folder: Path) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "Name a fruit.", "chosen": " A plum.", "rejected": " A lamp."}] * 2)
    questions = write_lines(tmp_path / "questions.jsonl", [{"question": "Name a fruit.", "answer": ""}, {"question": "?", "answer": "€"}])
    trl_callback.main(
        str(policy_folder),
        pairs,
        questions,
        str(tmp_path / "out"),
        max_steps=2,
        save_steps=1,
        use_cpu=True,
        per_device_train_batch_size=1,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    metrics = read_metrics(tmp_path / "out" / "metrics.jsonl", axis="checkpoint/step")
    # The empty answer occurs in every completion, and the euro sign in none: it is no token of this policy.
    assert {step: row["downstream/questions"] for step, row in metrics.items()} == {1: 0.5, 2: 0.5}


def row(number: int, *incorrect: str) -> BenchmarkRow:
    return BenchmarkRow(id=str(number), prompt="Name a fruit.", completions=("A plum.", *incorrect), num_correct=1, subset="Focus")


def test_the_custom_hook_correlates_reward_and_length_of_incorrect_answers(
    tmp_path: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ("A lamp.", "No", "What is a fruit? A lamp.")  # of 7, 2 and 24 characters: ranks 2, 1, 3
    rewards = RewardModelScorer(reward_model, tokenizer).score([(Message(role="user", content="Name a fruit."),)], [texts])[0]
    ranks = [sorted(rewards).index(reward) + 1 for reward in rewards]
    # Spearman without ties: 1 - 6 sum d^2 / (n (n^2 - 1)), n = 3.
    expected = 1 - 6 * sum((a - b) ** 2 for a, b in zip(ranks, (2, 1, 3), strict=True)) / 24
    event = CheckpointSaved(step=1, num_steps=1, path=tmp_path, run_dir=tmp_path, model=reward_model, tokenizer=tokenizer)
    hook = custom_hook.LengthBiasHook([row(1, *texts[:2]), row(2, texts[2])])
    assert hook.on_checkpoint(event) == {"length_bias/spearman": pytest.approx(expected)}


def test_the_custom_hook_runs_on_a_saved_reward_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reward_model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": 1, "prompt": "?", "chosen": ["A plum."], "rejected": ["No", "A lamp.", "A very long lamp."], "subset": "Focus"}]
    custom_hook.main(str(reward_model_folder), write_lines(tmp_path / "rows.jsonl", rows))
    assert "length_bias/spearman" in read_metrics(Path("runs/length-bias/metrics.jsonl"), axis="checkpoint/step")[0]
    assert "length_bias/spearman" in capsys.readouterr().out


def test_the_reward_function_is_loaded_by_the_name_that_its_file_gives() -> None:
    scorer = FunctionScorer("examples.reward_function:brief_and_polite")
    sixty_six_words = " ".join(["word"] * 66)
    scores = scorer.score(
        [(Message(role="user", content="Hello."),)], [["Thank you.", "No.", sixty_six_words, "Please: " + sixty_six_words]]
    )
    # Polite 1; brief and rude 0; 6 words above 60 cost 6/60; polite, with 7 above 60: 1 - 7/60.
    assert scores == [[1.0, 0.0, pytest.approx(-0.1), pytest.approx(1 - 7 / 60)]]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.name)
def test_every_example_begins_by_saying_how_it_is_run(file: Path) -> None:
    head = file.read_text(encoding="utf-8").split('"""')[1]
    assert f"python examples/{file.name} " in head or f"examples.{file.stem}:" in head
