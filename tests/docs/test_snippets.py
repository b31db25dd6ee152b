"""Every Python block of the README and of docs/ runs, and every link between them leads somewhere.

The blocks of a page run in their order, in one namespace, in a folder that holds `rows.jsonl`. They may use `trainer`, `model` (a
reward model), `policy`, `tokenizer` and `run_dir`. A block that begins with a file's name (`# my_rewards.py`) becomes that file too.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from core.runs.tracking import read_metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]

ROWS = [
    {"id": str(number), "prompt": "Name a fruit.", "chosen": ["A plum."], "rejected": ["A lamp.", "No.", "Two."], "subset": subset}
    for number, subset in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus"))
] + [
    {"id": "ref:1", "prompt": "Name a fruit.", "chosen": ["A plum."], "rejected": ["A lamp."], "subset": "Ties"},
    {"id": "tied:1", "prompt": "Name a fruit.", "chosen": ["A plum.", "An apple."], "rejected": ["A lamp."], "subset": "Ties"},
]


class Trainer:
    """What the pages call `trainer`: it takes callbacks."""

    def __init__(self) -> None:
        self.callbacks: list[TrainerCallback] = []

    def add_callback(self, callback: TrainerCallback) -> None:
        self.callbacks.append(callback)


@pytest.fixture
def names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reward_model: LlamaForSequenceClassification,
    policy: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Any]:
    """What the blocks may use without having made it, in a folder of their own."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return {"trainer": Trainer(), "model": reward_model, "policy": policy, "tokenizer": tokenizer, "run_dir": tmp_path, "__name__": "page"}


def run_blocks(page: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the blocks of a page in their order, and returns how many there are."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for block in blocks:
        if named := FILE_NAME.match(block):
            Path(named[1]).write_text(block, encoding="utf-8")
            monkeypatch.delitem(sys.modules, Path(named[1]).stem, raising=False)
        exec(compile(block, str(page), "exec"), names)
    return len(blocks)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_blocks(page, names, monkeypatch) > 0


def test_the_readme_puts_the_benchmark_into_a_trainer(
    tmp_path: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, reward_model: LlamaForSequenceClassification
) -> None:
    run_blocks(ROOT / "README.md", names, monkeypatch)
    (callback,) = names["trainer"].callbacks
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    callback.on_save(arguments, TrainerState(global_step=3, max_steps=3), TrainerControl(), model=reward_model)
    metrics = read_metrics(Path("metrics.jsonl"), axis="checkpoint/step")[3]
    assert {f"rewardbench2/{name}" for name in ("overall", "factuality", "precise_if", "math", "safety", "focus", "ties")} <= metrics.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not broken, f"{page.relative_to(ROOT)} links to {broken}"
