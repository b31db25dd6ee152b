"""Finished runs without a training, and the command that publishes them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from core.disk import atomic_folder
from core.runs.checkpoints import step_folder
from core.runs.record import finish_run, open_run
from launch.compose import composed
from launch.publish import command
from launch.schema import RMJob

DOMAINS = ("factuality", "precise_if", "math", "safety", "focus", "ties")
OWN = (
    *("model=custom", "model.path=org/base", "data=custom", "data.paths=[org/pairs,/home/ada/pairs.jsonl]", "data.name=mine"),
    *("hooks.rewardbench2=allenai/reward-bench-2", "study=sweep"),
)
LICENSE = "license=apache-2.0"


def trained(
    overall: float,
    *overrides: str,
    metrics: dict[str, float] | None = None,
    finished: bool = True,
    job: str = "rm",
    study: str = "sweep",
    inputs: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    files: dict[str, str] | None = None,
    **record: Any,
) -> Path:
    """A run as a training leaves it, with some bytes for weights and every domain scored like the whole.

    `identity` and `inputs`, the hashes of what it read, are what its record has it identified by; `files` stand in its checkpoint, and
    `record` in its record.
    """
    own = composed(RMJob, [*OWN, *overrides])
    known_by = {"overrides": overrides, **(identity or {}), **({"inputs": inputs} if inputs else {})}
    run, _ = open_run(
        runs_dir=Path("runs"), study=study, job=job, name="mine", identity=known_by, config_yaml=own.yaml,
        extra={"lineage": {"base": "base", "model": "org/base", "data": "mine"}},
    )  # fmt: skip
    config = {"architectures": ["LlamaForSequenceClassification"], "_name_or_path": "/home/ada/m"}
    with atomic_folder(step_folder(run.dir, 5)) as folder:
        (folder / "model.safetensors").write_bytes(f"{overall:.9f}".encode())
        for name, text in {"config.json": json.dumps(config), **(files or {})}.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "state").mkdir()
        (folder / "state" / "optimizer.pt").write_bytes(b"large")
    scores = {f"rewardbench2/{name}": overall for name in ("overall", *DOMAINS)} if metrics is None else metrics
    if finished:
        written = {"final": scores, "best": scores, "step": 5, "best_step": 5, "best_metric": "rewardbench2/overall", "num_pairs": 24}
        finish_run(run, **written | record)
    return run.dir


def branch_of(run: Path) -> str:
    """The revision that a run becomes."""
    return run.name.removeprefix("rm-")


def publish(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Gives the command and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["rewardloop publish", *arguments])
    try:
        command.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def rows_of(card: str) -> list[dict[str, str]]:
    """The table of a card."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
