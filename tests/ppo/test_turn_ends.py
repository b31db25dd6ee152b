"""Every algorithm stops its answers where the policy ends them, and leaves the policy's generation config as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.records import user
from core.runs.checkpoints import step_folder
from ppo.config import Algo
from tests.fakes import LengthScorer, ListTracker, only_id, tiny_llama, with_likely_end, word_tokenizer
from tests.ppo.anything import run_any

PROMPTS = [user("name a fruit"), user("name a short fruit"), user("name a lamp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that ends about every answer with a token which only its generation config names."""
    target = tmp_path_factory.mktemp("policy")
    tokenizer: PreTrainedTokenizerFast = word_tokenizer(pad="<unk>")
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
