"""Every algorithm stops its answers where the policy ends them, and leaves the policy's generation config as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from core.config import Dtype, RolloutConfig, RolloutKind
from core.records import user
from core.runs.checkpoints import step_folder
from ppo.config import Algo
from tests.core.vllm.fake_server import Standin, serving
from tests.fakes import LengthScorer, ListTracker, only_id, tiny_llama, with_likely_end, word_tokenizer
from tests.ppo.anything import run_any

PROMPTS = [user("name a fruit"), user("name a short fruit"), user("name a lamp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that ends about every answer with a token which only its generation config names."""
    return saved(tmp_path_factory.mktemp("policy"), pad="<unk>")


def saved(target: Path, *, pad: str | None) -> Path:
    tokenizer: PreTrainedTokenizerFast = word_tokenizer(pad=pad)
    tokenizer.add_tokens(["<|eot|>"])  # not marked as special, so that decoding alone would leave it in the text
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_llama(tokenizer)).eval()
    eot = only_id(tokenizer.convert_tokens_to_ids("<|eot|>"))
    with_likely_end(model, eot, share=0.9).save_pretrained(target)
    tokenizer.save_pretrained(target)
    # As Llama 2's: a temperature without sampling, which transformers warns of.
    declared = {"eos_token_id": [eot, only_id(tokenizer.eos_token_id)], "do_sample": False, "temperature": 0.6}
    (target / "generation_config.json").write_text(json.dumps(declared))
    return target


@pytest.mark.parametrize("algo", list(Algo))
def test_answers_end_where_the_generation_config_says_and_it_is_saved_with_the_policy(folder: Path, tmp_path: Path, algo: Algo) -> None:
    tracker, scorer = ListTracker(), LengthScorer()
    sizes: dict[str, Any] = {"num_batches": 1, "num_checkpoints": 1, "max_new_tokens": 12}
    parts: dict[str, Any] = {"prompts": PROMPTS, "tracker": tracker, "scorer": scorer}
    run_any(folder, algo, tmp_path, **sizes, **parts)
    assert tracker.on("train/step")[1]["train/eos_rate"] == 1.0
    assert "<|eot|>" not in str(scorer.calls)
    saved = json.loads((step_folder(tmp_path, 1) / "generation_config.json").read_text())
    assert saved["eos_token_id"] == json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def test_a_vllm_server_is_told_every_end_and_takes_the_weights_of_a_policy_without_a_pad_token(tmp_path: Path) -> None:
    folder, tracker = saved(tmp_path / "base", pad=None), ListTracker()
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token  # for the server's own batches
    with serving(Standin(model, tokenizer)) as server:
        rollouts = RolloutConfig(kind=RolloutKind.vllm, url=server.url, folder=str(tmp_path / "weights"), dtype=Dtype.fp32)
        sizes: dict[str, Any] = {"num_batches": 1, "num_checkpoints": 1, "max_new_tokens": 12}
        parts: dict[str, Any] = {"prompts": PROMPTS, "tracker": tracker, "scorer": LengthScorer()}
        run_any(folder, Algo.ppo, tmp_path / "run", rollout=rollouts, **sizes, **parts)
    logged = tracker.on("train/step")[1]
    assert logged["train/eos_rate"] == 1.0
    assert logged["train/importance_gap"] < 1e-4  # the server holds the weights in training
    told = {tuple(body["stop_token_ids"]) for path, body in server.calls if path == "/v1/completions"}
    assert told == {tuple(sorted(tokenizer.convert_tokens_to_ids(["</s>", "<|eot|>"])))}
