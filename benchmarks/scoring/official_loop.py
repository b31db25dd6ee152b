"""Scores texts as the official RewardBench 2 script does, with the pipeline class of the `rewardbench` package from PyPI.

Runs in its own environment (see `make bench-official`), because the package pins an old transformers:
`python official_loop.py MODEL DTYPE BATCH THREADS < texts.json > result.json`. Reads a JSON list of rendered texts; writes the
seconds of the loop, tokenisation included, and the scores. Loading the model is not timed.

The package sends its batches to "cuda"; without a GPU they stay on the CPU. Nothing else in it is changed.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BatchEncoding, PreTrainedModel, PreTrainedTokenizerFast


def official_pipeline() -> Callable[[str, PreTrainedModel, object], Callable[..., torch.Tensor]]:
    """The pipeline class, loaded from its own file: importing the package would import every model it knows and their dependencies."""
    package = importlib.util.find_spec("rewardbench")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "models" / "pipeline.py"
    spec = importlib.util.spec_from_file_location("official_pipeline", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RewardBenchPipeline


class OnThisDevice:
    """A tokenizer whose batches go to the model's device, whichever device the package names."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        self.tokenizer, self.device = tokenizer, device
        self.bos_token, self.bos_token_id = tokenizer.bos_token, tokenizer.bos_token_id

    def __call__(self, *args: Any, **options: Any) -> BatchEncoding:  # forwarded as they come
        inputs: Any = self.tokenizer(*args, **options)  # its type does not let `to` be replaced
        move = inputs.to
        inputs.to = lambda _: move(self.device)
        return inputs


def main() -> None:
    folder, dtype, batch, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    texts = json.load(sys.stdin)
    # The old transformers knows neither the new name of the tokenizer class nor where the base of the rotary angles is stored now.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
    tokenizer.truncation_side = "right"
    config = AutoConfig.from_pretrained(folder)
    config.rope_theta = json.loads(Path(folder, "config.json").read_text())["rope_parameters"]["rope_theta"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, torch_dtype=getattr(torch, dtype))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    score = official_pipeline()("text-classification", model.to(device), OnThisDevice(tokenizer, device))
    options = {"batch_size": batch, "truncation": True, "padding": True, "max_length": 2048}
    score(texts[:2], **options)
    scores: list[float] = []
    started = time.perf_counter()
    for first in range(0, len(texts), batch):
        scores += score(texts[first : first + batch], **options).float().cpu().flatten().tolist()
    json.dump({"seconds": time.perf_counter() - started, "scores": scores}, sys.stdout)


if __name__ == "__main__":
    main()
