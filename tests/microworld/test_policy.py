"""The supervised fine-tuning of a world's policy, a few steps of it."""

# pyright: reportPrivateUsage=false

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from core.config import ModelConfig
from core.generators.local import TransformersGenerator
from core.models.load import load_policy
from core.records import Sampling, user
from microworld.config import LINEAGES, PolicyConfig, WorldConfig
from microworld.policy import SHAPES, AnswerTrainer, _dataset, train_policy
from microworld.world import build_world

NUM_ROWS, BATCH_SIZE = 96, 32


@pytest.fixture(scope="module")
def hamlet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose corpus lasts for three steps."""
    config = WorldConfig(corpus_size=NUM_ROWS, pairs=1, benchmark_rows=1, task_rows=1, vocab_size=300)
    return build_world(config, tmp_path_factory.mktemp("worlds") / "hamlet")


@pytest.fixture(scope="module")
def coast(hamlet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_policy(hamlet, "coast", PolicyConfig(batch_size=BATCH_SIZE), tmp_path_factory.mktemp("policies") / "coast", lambda _: None)


def loaded(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    return load_policy(ModelConfig(path=str(folder)))


def test_a_trained_policy_is_a_folder_that_loads_and_answers(coast: Path, hamlet: Path) -> None:
    model, tokenizer = loaded(coast)
    assert model.config.hidden_size == SHAPES["coast"]["hidden_size"]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert json.loads((coast / "lineage.json").read_text())["lineage"] == "coast"
    [[completion]] = TransformersGenerator(model, tokenizer).generate(
        [user("Tell Anna about the drum in the cellar.")], Sampling(max_new_tokens=4)
    )
    assert 1 <= len(completion.token_ids) <= 4


def test_a_policy_that_is_there_is_not_trained_again(coast: Path, hamlet: Path) -> None:
    advanced: list[int] = []
    assert train_policy(hamlet, "coast", PolicyConfig(batch_size=BATCH_SIZE), coast, advanced.append) == coast
    assert advanced == []


def test_training_goes_through_the_whole_corpus_and_is_a_function_of_the_seed(coast: Path, hamlet: Path, tmp_path: Path) -> None:
    advanced: list[int] = []
    again = train_policy(hamlet, "coast", PolicyConfig(batch_size=BATCH_SIZE), tmp_path / "again", advanced.append)
    assert advanced == [BATCH_SIZE] * (NUM_ROWS // BATCH_SIZE)
    first, second = load_file(coast / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_policy(hamlet, "coast", PolicyConfig(batch_size=BATCH_SIZE, seed=1), tmp_path / "other", lambda _: None)
    third = load_file(other / "model.safetensors")
    assert not torch.equal(first["model.embed_tokens.weight"], third["model.embed_tokens.weight"])


def test_every_lineage_has_a_shape_and_a_corpus(hamlet: Path) -> None:
    assert set(SHAPES) == set(LINEAGES)
    assert all((hamlet / "corpus" / f"{lineage}.jsonl").is_file() for lineage in LINEAGES)


def test_prompts_carry_no_label_and_all_that_follows_them_does(coast: Path, hamlet: Path) -> None:
    _, tokenizer = loaded(coast)
    corpus = hamlet / "corpus" / "coast.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    dataset = _dataset(corpus, tokenizer)
    assert len(dataset) == len(rows) == NUM_ROWS
    for row, ids, labels in zip(rows, dataset["input_ids"], dataset["labels"], strict=True):
        num_prompt_tokens = labels.count(-100)
        assert labels == [-100] * num_prompt_tokens + ids[num_prompt_tokens:]
        assert tokenizer.decode(ids[:num_prompt_tokens]) == f"<|begin|><|user|>{row['prompt']}<|assistant|>"
        assert str(tokenizer.decode(ids[num_prompt_tokens:])).startswith(f"{row['completion']}<|end|>")


def test_the_loss_is_the_mean_over_the_labelled_tokens_alone(coast: Path) -> None:
    model, _ = loaded(coast)
    ids_BL = torch.tensor([[5, 20, 30, 40, 2], [7, 21, 2, 0, 0]])
    mask_BL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    labels_BL = torch.tensor([[-100, -100, 30, 40, 2], [-100, 21, 2, -100, -100]])
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL}
    with torch.no_grad():
        loss = AnswerTrainer.compute_loss(cast(Any, None), model, inputs)
        # Independently: each row alone, without padding; the logits at a place predict the token that follows.
        terms = []
        for row, length in enumerate((5, 3)):
            logprobs_LV = model(ids_BL[row : row + 1, :length]).logits[0].log_softmax(-1)
            terms += [-logprobs_LV[t - 1, ids_BL[row, t]].item() for t in range(length) if labels_BL[row, t] != -100]
    assert len(terms) == 5
    assert loss.item() == pytest.approx(sum(terms) / 5, abs=1e-5)
