"""What a chat template does to texts is told by the commands: equal completions, lost turns, refused rows, the date."""

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.progress import NoProgress
from core.runs import record
from core.runs.record import read_record
from launch import bench
from launch.entry import composed
from launch.schema import BenchJob
from tests.core.data.templates import GEMMA, R1
from tests.core.data.test_dates import DATED

ROWS: list[dict[str, Any]] = [
    {"prompt": "Name a fruit.", "chosen": ["A plum."], "rejected": ["A plum. \n", "5"]},
    {"prompt": "Name a fruit.", "chosen": ["A plum."], "rejected": ["A lamp.", "5"]},
    {"prompt": "Name a fruit.", "chosen": ["A plum."], "rejected": ["A lamp.", "5"], "system": "Be short."},
]


def saved(tmp_path: Path, model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, template: str) -> Path:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    model.save_pretrained(tmp_path / "rm")
    own.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def benched(tmp_path: Path, model: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "subset": "Focus", **row}) + "\n" for i, row in enumerate(rows)))
    job = composed(BenchJob, [f"reward.path={model}", f"rows={file}", f"runs_dir={tmp_path / 'runs'}", "tracker.mode=disabled"])
    return bench.run(job, NoProgress())


def test_bench_tells_of_equal_completions_and_of_the_date(
    tmp_path: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tmp_path, reward_model, tokenizer, DATED + GEMMA)
    monkeypatch.setattr(record, "_today", lambda: date(2024, 2, 29))
    result = benched(tmp_path, model, ROWS[:2])
    assert (result["num_equal_rows"], result["date"]) == (1, "2024-02-29")
    said = bench._remarks(result)  # pyright: ignore[reportPrivateUsage]
    assert "1 of 2 rows hold completions that are equal after tokenising" in said
    assert any("2024-02-29" in line for line in said)
    assert read_record(Path(result["dir"]))["date"] == "2024-02-29"
    monkeypatch.setattr(record, "_today", lambda: date(2025, 1, 1))
    assert benched(tmp_path, model, ROWS[:2])["dir"] == result["dir"]  # the date is no part of the run's identity


def test_bench_names_rows_that_the_template_refuses_and_turns_that_it_leaves_out(
    tmp_path: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"(?s)1 of 3 benchmark rows cannot .*rows\.jsonl, row 3: .*System role not supported"):
        benched(tmp_path, saved(tmp_path, reward_model, tokenizer, GEMMA), ROWS)
    benched(tmp_path, saved(tmp_path, reward_model, tokenizer, R1), ROWS)
    assert "the chat template leaves out the system turn of 3 of 9 scored texts" in capsys.readouterr().out
