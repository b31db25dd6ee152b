"""What identifies a run: every setting by its declared role, and inputs by their content."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from huggingface_hub import constants

from core.config import ContentHashed, Hashed, IdentityRole, ModelConfig
from core.data.fingerprint import program_fingerprint
from core.runs.identity import identity_hash
from evalhooks.config import TaskConfig
from evalhooks.judges.config import JudgeConfig
from launch.compose import composed
from launch.identity import identity_of, roles_of
from launch.rewards.config import RewardConfig
from launch.schema import SCHEMAS, BenchJob, BoNJob, PPOJob, RMJob
from launch.settings import RunSettings
from rmtrain.config import PreferenceDataConfig, SourceConfig

OWN = ["model=custom", "data=custom", "hooks=none", "tracker=files"]


def dataclasses_in(hint: Any) -> Iterator[type]:
    """The dataclasses that a type holds, as `dict[str, TaskConfig]` holds one."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for argument in get_args(hint):
        yield from dataclasses_in(argument)


def reachable(config: type) -> dict[type, None]:
    """The dataclasses whose fields take part in the identity of a job: all but those under an unhashed field."""
    found = {config: None}
    for name, role in roles_of(config).items():
        if role != IdentityRole.unhashed:
            for inner in dataclasses_in(get_type_hints(config)[name]):
                found |= reachable(inner)
    return found


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_field_of_every_schema_declares_its_role(schema: type) -> None:
    for config in reachable(schema):
        assert set(roles_of(config)) == {item.name for item in fields(config)}


def test_a_field_without_a_role_is_refused_by_name() -> None:
    @dataclass(kw_only=True)
    class Config:
        lr: Hashed[float] = 1e-3
        path: str = ""
        weird: Annotated[int, "no role"] = 0

    with pytest.raises(TypeError, match=r"Config\.path must be declared"):
        roles_of(Config)


# One job of each kind, with every input that it can have.


@pytest.fixture
def inputs(tmp_path: Path, reward_model_folder: Path, policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files and models that a job can name, each with a copy elsewhere and another one of other content, as x, x-copy and x-other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("core.models.locate.is_offline", lambda: False)  # as if it were in the cache
    for name in ("pairs", "more", "rows", "rows1", "task", "prior"):
        for copied, text in ((name, name), (f"{name}-copy", name), (f"{name}-other", f"not {name}")):
            (tmp_path / f"{copied}.jsonl").write_text(text)
    for name, source in (("rm", reward_model_folder), ("policy", policy_folder), ("pools", reward_model_folder)):
        for copied in (name, f"{name}-copy", f"{name}-other"):
            shutil.copytree(source, tmp_path / copied)
        config = tmp_path / f"{name}-other" / "config.json"
        config.write_text(config.read_text().replace("{", '{"changed": 1,', 1))
    return tmp_path


def jobs() -> dict[str, RunSettings]:
    hooks = ["hooks.rewardbench2=rows.jsonl", "hooks.rewardbench1=rows1.jsonl", "hooks.pools=pools"]
    task = ["tasks=gsm8k", "tasks.gsm8k.path=task.jsonl"]
    rewards = {
        "reward": ["path=rm"],
        "rewards.dpo": ["kind=dpo", "path=policy", "reference=policy"],
        "rewards.both": ["kind=ensemble", "members=[rm,rm]"],
        "rewards.judge": ["kind=judge", "judge.path=policy"],
        "rewards.words": ["kind=function", f"function={__name__}:words"],
        "rewards.served": ["kind=vllm", "url=http://localhost:8000", "path=rm"],
        "rewards.right": ["kind=verifier", "verifier=evalhooks.tasks.verifiers:gsm8k"],
    }
    said = {
        "rm": [*OWN, *hooks, "model.path=policy", "data.paths=[pairs.jsonl]"],
        "ppo": [
            *(text for text in OWN if text != "data=custom"), *hooks, *task, "model.path=policy", "prompts=[pairs.jsonl,more.jsonl]",
            *(f"{key}.{text}" for key, texts in rewards.items() for text in texts),
        ],
        "bon": ["model=custom", "model.path=policy", *task],
        "bench": ["reward.path=rm", "rows=rows.jsonl"],
    }  # fmt: skip
    rm, ppo = composed(RMJob, said["rm"]).job, composed(PPOJob, said["ppo"]).job
    bon, bench = composed(BoNJob, said["bon"]).job, composed(BenchJob, said["bench"]).job
    rm.data.sources = {"more": SourceConfig(path="more.jsonl")}
    bench.prior_sets = "prior.jsonl"
    for name in list(ppo.rewards):  # typed, so that its fields can be changed like all others
        ppo.rewards[name] = ppo.terms[name]
    return {"rm": rm, "ppo": ppo, "bon": bon, "bench": bench}


def words(prompts: Any, completions: Any) -> list[list[float]]:
    """A reward function."""
    return [[float(len(text.split())) for text in answers] for answers in completions]


def leaves(config: Any, key: str = "", role: IdentityRole | None = None) -> Iterator[tuple[str, Any, str, IdentityRole]]:
    """Every single setting: its key, what holds it, its name there, and its role; nothing under an unhashed field is hashed."""
    for item in fields(config):
        own = roles_of(type(config))[item.name] if role is None else role
        value = getattr(config, item.name)
        place = f"{key}.{item.name}" if key else item.name
        inner = {"": value} if is_dataclass(value) else value
        under = own if own == IdentityRole.unhashed else None
        if isinstance(inner, Mapping) and any(is_dataclass(part) for part in inner.values()):
            for name, part in inner.items():
                yield from leaves(part, f"{place}.{name}" if name else place, under)
        else:
            yield place, config, item.name, own


def changed(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case Enum():
            return next(other for other in type(value) if other != value)
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case None:
            return 7
        case list():
            return [*value, *(value[:1] or ["x"])]
        case dict():
            return {**value, "x": 1}
        case _:
            raise TypeError(f"no other value for {value!r}")


@pytest.mark.parametrize("kind", ["rm", "ppo", "bon", "bench"])
def test_the_hash_changes_with_exactly_the_settings_that_are_declared_to_count(inputs: Path, kind: str) -> None:
    job = jobs()[kind]
    before = identity_hash(identity_of(job))
    seen = 0
    for key, holder, name, role in list(leaves(job)):
        value = getattr(holder, name)
        if role == IdentityRole.content_hashed or (name == "kind" and "reward" in key):
            continue  # below; another kind of reward has other inputs
        if name in ("function", "verifier") and value:
            continue  # must name a function that is there; its text is hashed like any other
        if name == "among":
            continue  # names runs that are there; what is chosen of them takes its place before anything is hashed
        setattr(holder, name, changed(value))
        unread = any(key == other or key.startswith(f"{other}.") for other in job.unread)
        counts = role == IdentityRole.hashed and not unread
        assert (identity_hash(identity_of(job)) != before) == counts, key
        setattr(holder, name, value)
        seen += counts
    assert identity_hash(identity_of(job)) == before
    assert seen >= 10


def moved(value: Any, suffix: str) -> Any:
    """The same setting with its inputs under other names."""
    if isinstance(value, list):
        return [moved(item, suffix) for item in value]
    path = Path(value)
    return f"{path.stem}{suffix}{path.suffix}"


@pytest.mark.parametrize("kind", ["rm", "ppo", "bon", "bench"])
def test_an_input_counts_by_its_content_and_not_by_its_place(inputs: Path, kind: str) -> None:
    job = jobs()[kind]
    before = identity_hash(identity_of(job))
    seen: set[str] = set()
    for key, holder, name, role in list(leaves(job)):
        value = getattr(holder, name)
        if role != IdentityRole.content_hashed or not value:
            continue
        unread = any(key == other or key.startswith(f"{other}.") for other in job.unread)
        setattr(holder, name, moved(value, "-copy"))
        # The file's name is the name of a source that is given by its path alone, which says where pairs come from.
        assert (identity_hash(identity_of(job)) == before) == (key != "data.paths"), key
        setattr(holder, name, moved(value, "-other"))
        assert (identity_hash(identity_of(job)) == before) == unread, key
        setattr(holder, name, value)
        seen |= {key} if not unread else set()
    expected = {
        "rm": {"model.path", "data.paths", "data.sources.more.path", "hooks.rewardbench2", "hooks.rewardbench1", "hooks.pools"},
        "ppo": {
            "model.path", "prompts", "hooks.rewardbench2", "tasks.gsm8k.path", "reward.path", "rewards.dpo.path", "rewards.dpo.reference",
            "rewards.both.members", "rewards.judge.judge.path", "rewards.served.path",
        },
        "bon": {"model.path", "tasks.gsm8k.path"},
        "bench": {"reward.path", "rows", "prior_sets"},
    }  # fmt: skip
    assert seen == expected[kind]


def test_a_program_counts_by_its_name_and_by_the_file_that_holds_it(
    tmp_path: Path, reward_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    program = tmp_path / "my_reward_program.py"
    program.write_text("def short(prompts, completions): return 1\n")
    overrides = ["model=custom", "hooks=none", "tasks=none", f"model.path={reward_model_folder}", "prompts=[my_reward_program.py]"]
    job = composed(PPOJob, [*overrides, "rewards.x.kind=function", "rewards.x.function=my_reward_program:short"]).job
    first = identity_of(job)
    assert identity_of(job) == first  # nothing in it depends on the time
    program.write_text("def short(prompts, completions): return 2\n")
    second = identity_of(job)
    assert second["inputs"]["rewards.x.function"] != first["inputs"]["rewards.x.function"]
    assert second["rewards"] == first["rewards"]


def test_the_order_of_sources_counts_and_that_of_rewards_does_not(inputs: Path) -> None:
    found = jobs()
    model, policy = found["rm"], found["ppo"]
    assert isinstance(model, RMJob)
    assert isinstance(policy, PPOJob)
    before = [identity_hash(identity_of(job)) for job in (model, policy)]
    model.data.paths, model.data.sources = [], {"a": SourceConfig(path="pairs.jsonl"), "b": SourceConfig(path="more.jsonl")}
    in_order = identity_hash(identity_of(model))
    model.data.sources = dict(reversed(model.data.sources.items()))
    policy.rewards = dict(reversed(policy.rewards.items()))
    after = [identity_hash(identity_of(job)) for job in (model, policy)]
    assert after[0] not in (before[0], in_order)
    assert after[1] == before[1]


def test_a_record_shows_its_inputs_by_key(inputs: Path) -> None:
    identity = identity_of(jobs()["rm"])
    assert (identity["seed"], identity["optim"]["schedule"]) == (0, "linear")
    assert {"model.path", "data.0.pairs", "data.1.more", "hooks.pools"} <= identity["inputs"].keys()


@pytest.mark.parametrize("config", [ModelConfig, RewardConfig, JudgeConfig, PreferenceDataConfig, SourceConfig, TaskConfig])
def test_a_new_place_anywhere_in_a_configuration_counts_by_its_content(config: type, inputs: Path) -> None:
    found: dict[str, Any] = dict(jobs())
    holder, name = {
        ModelConfig: (found["rm"], "model"),
        RewardConfig: (found["ppo"], "reward"),
        JudgeConfig: (found["ppo"].rewards["judge"], "judge"),
        PreferenceDataConfig: (found["rm"], "data"),
        SourceConfig: (found["rm"].data.sources, "more"),
        TaskConfig: (found["ppo"].tasks, "gsm8k"),
    }[config]
    widened = make_dataclass("Widened", [("rubric", ContentHashed[str], "rubric.txt")], bases=(config,), kw_only=True)
    old = holder[name] if isinstance(holder, dict) else getattr(holder, name)
    new = widened(**{item.name: getattr(old, item.name) for item in fields(old)})
    if isinstance(holder, dict):
        holder[name] = new
    else:
        setattr(holder, name, new)
    job = found["rm" if config in (ModelConfig, PreferenceDataConfig, SourceConfig) else "ppo"]
    hashes: list[str] = []
    for text in ("one", "one", "another"):
        (inputs / "rubric.txt").write_text(text)
        hashes.append(identity_hash(identity_of(job)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_list_of_configurations_counts_by_their_contents(inputs: Path) -> None:
    @dataclass(kw_only=True)
    class Several(RMJob):
        extras: Hashed[list[ModelConfig]] = field(default_factory=list)

    rm = jobs()["rm"]
    ours = {item.name: getattr(rm, item.name) for item in fields(rm)}
    alike = [identity_hash(identity_of(Several(**ours, extras=[ModelConfig(path=path)]))) for path in ("rm", "rm-copy", "rm-other")]
    assert alike[0] == alike[1] != alike[2]


def test_an_edited_verifier_of_a_task_makes_another_run(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs()["bon"]
    assert isinstance(job, BoNJob)
    (inputs / "my_verdicts.py").write_text("def v(completion, reference):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(inputs))
    job.tasks["gsm8k"].verifier = "my_verdicts:v"
    before = identity_hash(identity_of(job))
    assert identity_hash(identity_of(job)) == before
    (inputs / "my_verdicts.py").write_text("def v(completion, reference):\n    return 0.0\n")
    assert identity_hash(identity_of(job)) != before


def test_a_function_that_a_package_hands_on_is_known_by_the_file_it_is_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handing_on").mkdir()
    (tmp_path / "handing_on" / "__init__.py").write_text("from handing_on.inner import f\n")
    (tmp_path / "handing_on" / "inner.py").write_text("def f(prompts, completions):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = program_fingerprint("handing_on:f")
    (tmp_path / "handing_on" / "inner.py").write_text("def f(prompts, completions):\n    return 2\n")
    assert program_fingerprint("handing_on:f") != before


def test_a_verifier_is_known_by_the_modules_of_its_own_folder_that_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "strict_verifiers"
    package.mkdir()
    lines = "import json\nimport strict_beside\nfrom core.records import user\nfrom . import near\n"
    (package / "__init__.py").write_text("")
    (package / "answers.py").write_text(f"{lines}def v(completion, reference):\n    from .late import y\n    return 1.0\n")
    (package / "near.py").write_text("from strict_verifiers.further import z\n")
    others = [tmp_path / "strict_beside.py", package / "near.py", package / "further.py", package / "late.py"]
    for file in (others[0], *others[2:]):
        file.write_text("y = z = 1\n")
    (package / "unused.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = {program_fingerprint("strict_verifiers.answers:v")}
    for number, file in enumerate(others, 2):
        file.write_text(f"{file.read_text()}x = 2\n")
        seen.add(program_fingerprint("strict_verifiers.answers:v"))
        assert len(seen) == number, file
    (package / "unused.py").write_text("x = 2\n")
    assert program_fingerprint("strict_verifiers.answers:v") in seen


def test_a_verifier_of_this_library_is_known_by_its_own_file() -> None:
    assert len(program_fingerprint("evalhooks.tasks.verifiers:gsm8k").split()) == 1
