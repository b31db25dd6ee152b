"""Model folders that are not what they should be."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from tests.faults.inputs.trial import Expected, Trial
from tests.faults.jobs import BON, PPO, RM, world_of
from tests.faults.stage import Stage

Change = Callable[[Path], object]

WEIGHTS = "model.safetensors"


def _edit(name: str, **changes: Any) -> Change:
    """Sets keys of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        file = folder / name
        content = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def _write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def _remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def _cut(name: str, keep: float) -> Change:
    return lambda folder: (folder / name).write_bytes((content := (folder / name).read_bytes())[: int(keep * len(content))])


def _weights(change: Callable[[dict[str, Any]], object]) -> Change:
    def changed(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return changed


def _embedding(weights: dict[str, Any]) -> None:
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:, :8].copy()


BROKEN: Mapping[str, Change] = {
    "not there": shutil.rmtree,
    "empty": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "a file": lambda folder: [shutil.rmtree(folder), folder.write_bytes(b"weights")],
    "no config.json": _remove("config.json"),
    "empty config.json": _write("config.json", b""),
    "config.json cut short": _cut("config.json", 0.5),
    "config.json of random bytes": _write("config.json", bytes(range(256))),
    "config.json an array": _write("config.json", b"[]"),
    "config.json without model_type": _edit("config.json", model_type=None),
    "unknown model_type": _edit("config.json", model_type="nonsense"),
    "hidden_size a text": _edit("config.json", hidden_size="wide"),
    "hidden_size below zero": _edit("config.json", hidden_size=-16),
    "hidden_size of another model": _edit("config.json", hidden_size=32),
    "more layers than weights": _edit("config.json", num_hidden_layers=3),
    "no weights": _remove(WEIGHTS),
    "empty weights": _write(WEIGHTS, b""),
    "weights cut short": _cut(WEIGHTS, 0.6),
    "weights of random bytes": _write(WEIGHTS, bytes(range(256)) * 50),
    "weights that are HTML": _write(WEIGHTS, b"<!doctype html>" * 50),
    "a Git LFS pointer": _write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"),
    "embeddings of another width": _weights(_embedding),
    "a weight less": _weights(lambda weights: weights.pop("model.norm.weight")),
    "no tokenizer": _remove("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    "empty tokenizer.json": _write("tokenizer.json", b""),
    "tokenizer.json cut short": _cut("tokenizer.json", 0.5),
    "tokenizer_config.json an array": _write("tokenizer_config.json", b"[]"),
    "no chat template": _remove("chat_template.jinja"),
    "a chat template that is no template": _write("chat_template.jinja", b"{% for m in messages %}"),
    "a chat template that always raises": _write("chat_template.jinja", b"{{ raise_exception('no') }}"),
    "custom code": lambda folder: [
        _edit("config.json", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}, model_type="mine")(folder),
        (folder / "code.py").write_text("raise SystemExit('it ran')"),
    ],
}
"""Changes to a folder after which no job can work with it."""

ROLES: Mapping[str, Callable[[Stage, str], Sequence[str]]] = {
    "model of rm": lambda stage, model: ["rm", *world_of(stage), *RM, "preset=microworld", "model=custom", f"model.path={model}"],
    "model of ppo": lambda stage, model: [
        *("ppo", *world_of(stage), *PPO, f"reward.path={stage.reward_model}"),
        *("preset=microworld", "model=custom", f"model.path={model}"),
    ],
    "model of bon": lambda stage, model: [
        *("bon", *world_of(stage), *BON, "preset=microworld", "model=custom", f"model.path={model}", "pools=runs/pools")
    ],
    "reward of ppo": lambda stage, model: ["ppo", *world_of(stage), *PPO, f"reward.path={model}"],
    "reward of bench": lambda stage, model: ["bench", "runs_dir=runs", f"rows={stage.rows2}", f"reward.path={model}"],
    "reward of bon": lambda stage, model: ["bon", *world_of(stage), *BON, f"rewards=[{model}]"],
    "judge of bench": lambda stage, model: [
        *("bench", "runs_dir=runs", f"rows={stage.rows2}", "reward=judge", f"reward.judge.path={model}"),
        "reward.judge.cache=answers.sqlite",
    ],
}
"""Where a model is named."""


def model_trials(stage: Stage) -> list[Trial]:
    """Every change in every role; some are only found when a run begins, so a run that ends as failed counts as a refusal."""
    return [
        Trial(name=f"models {role}/{what}", arguments=_arguments(stage, role, change), words=("given",), late=True)
        for role in ROLES
        for what, change in BROKEN.items()
    ] + [
        Trial(name=f"models {role}/whole", arguments=_arguments(stage, role, lambda folder: None), expected=Expected.accepted)
        for role in ROLES
    ]


def _arguments(stage: Stage, role: str, change: Change) -> Callable[[Path], Sequence[str]]:
    def arguments(folder: Path) -> Sequence[str]:
        shutil.copytree(stage.policy if role.startswith(("model", "judge")) else stage.reward_model, folder / "given")
        change(folder / "given")
        return ROLES[role](stage, "./given")

    return arguments
