"""The models and programs behind a configured reward, found before anything heavy is imported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.config import ModelConfig
from core.data.fingerprint import program_fingerprint
from core.disk import is_complete
from core.functions import Verifier, load_function, load_verifier
from core.models.adapters import model_fingerprint
from core.models.locate import resolve
from core.records import Prompt
from core.runs.checkpoints import complete_steps, latest_complete, step_folder
from core.runs.record import RECORD, RunStatus, read_record, value_at
from core.scorers.function import FunctionScorer
from core.scorers.verifier import VerifierScorer, try_verifier, verdict
from launch.compose import Composed, JobT, changed
from launch.history.find import find_runs
from launch.rewards.choice import By, choose, label_of
from launch.rewards.config import KINDS, RewardConfig, RewardKind
from launch.schema import PPOJob, reward_key


@dataclass(frozen=True, kw_only=True, slots=True)
class LocatedReward:
    """A reward, the models behind it by the setting that names each (`path`, `members[0]`), and what to call it."""

    config: RewardConfig
    models: Mapping[str, ModelConfig]
    name: str

    def contents(self) -> dict[str, Any]:
        """What its models are, and the file that holds its program, by setting."""
        found = {own: model_fingerprint(model, own) for own, model in self.models.items()}
        if program := KINDS[self.config.kind].program:
            found[program] = program_fingerprint(getattr(self.config, program))
        return found


def locate_reward(reward: RewardConfig, runs_dir: str, key: str = "reward", say: Callable[[str], None] = print) -> LocatedReward:
    """Finds the models of the reward whose settings stand under `key`, and its program; loads no model.

    Raises `ValueError` naming the key of what is not there.
    """
    reward = chosen(reward, runs_dir, key, say)
    kind = KINDS[reward.kind]
    models = {
        own: ModelConfig(
            path=str(reward_path(path, runs_dir, f"{key}.{own}", say)),
            revision=reward.revision if own == "path" else None,
            dtype=reward.dtype,
            quantize=reward.quantize,
        )
        for own, path in kind.models(reward).items()
    }
    for own, model in models.items():
        resolve(model, f"{key}.{own}")
        _say_which(Path(model.path), f"{key}.{own}", kind.models(reward)[own], say)
    if kind.program:
        load_function(getattr(reward, kind.program), f"{key}.{kind.program}:")
    return LocatedReward(config=reward, models=models, name=kind.label(reward) or models["path"].path)


def locate_terms(job: PPOJob, prompts: Sequence[Prompt], say: Callable[[str], None] = print) -> dict[str, LocatedReward]:
    """All rewards of a job by name, `reward` first. Loads no model.

    Each verifier and each function is tried on the first prompt, so that one for rows of another kind, and one that returns what is no
    reward, is found out here. Raises `ValueError` as `locate_reward` and as the program.
    """
    located = {name: locate_reward(reward, job.runs_dir, reward_key(name), say) for name, reward in job.terms.items()}
    for name, reward in job.terms.items():
        try_program(reward, prompts[0], reward_key(name))
    return located


def chosen(reward: RewardConfig, runs_dir: str, key: str = "reward", say: Callable[[str], None] = print) -> RewardConfig:
    """The reward with the path of the run that was chosen; itself where there is nothing to choose.

    Runs that are not finished, no reward models, or controls on flipped labels are left out, and `say` tells of them and of the choice.
    Raises `ValueError` naming the key if none is left.
    """
    if not reward.among:
        return reward
    by = reward.by or By.rewardbench2
    try:
        found = [record for record in find_runs(reward.among, Path(runs_dir)) if record["job"] == "rm"]
        finished = [record for record in found if record["status"] == RunStatus.finished]
        able = [record for record in finished if not value_at(record, "identity.data.flip")]
        if not able:
            raise ValueError(
                f"of {len(found)} reward models none is finished and trained on labels as they are; flipped ones are controls."
            )
        taken = choose(able, by, seed=reward.seed, say=say)
    except ValueError as error:
        raise ValueError(f"{key}.among=[{','.join(reward.among)}]: {error}") from error
    out = {"not finished": len(found) - len(finished), "controls": len(finished) - len(able)}
    without = ", ".join(f"{count} {what}" for what, count in out.items() if count)
    drawn = f" (seed {reward.seed})" if by == By.random else ""
    say(f"{key}: {taken['dir']} of {len(able)}, by {label_of(by)}{drawn}{f'; left out: {without}' if without else ''}")
    return replace(reward, path=str(taken["dir"]), among=[], by=None, seed=0)


def with_chosen(
    schema: type[JobT], composed: Composed[JobT], rewards: Mapping[str, RewardConfig], runs_dir: str, say: Callable[[str], None] = print
) -> Composed[JobT]:
    """The configuration with its rewards, given by key, chosen once for all that reads it: while it runs, others may finish.

    The path is also what the run keeps, so that it is the same when it is run again.
    """
    values: dict[str, object] = {}
    for key, reward in rewards.items():
        if reward.among:
            values |= {f"{key}.path": chosen(reward, runs_dir, key, say).path, f"{key}.among": [], f"{key}.by": None, f"{key}.seed": 0}
    return changed(schema, composed, values) if values else composed


def try_program(reward: RewardConfig, prompt: Prompt, key: str = "reward", completions: Sequence[str] = ("",)) -> None:
    """Tries a reward that is a verifier or a function on one prompt; raises `ValueError` naming the key if it does not work."""
    try:
        match reward.kind:
            case RewardKind.verifier:
                try_verifier(load_verifier(reward.verifier), prompt, _judged, name=reward.verifier)
            case RewardKind.function:
                FunctionScorer(reward.function).score([prompt.dialogue], [completions])
            case _:
                pass
    except ValueError as error:
        raise ValueError(f"{key}.{KINDS[reward.kind].program} does not fit the prompts: {error}") from error


def _judged(verifier: Verifier, text: str, prompt: Prompt, *, name: str) -> float:
    return verdict(verifier, text, prompt.reference, prompt.dialogue, name=name)


def verifier_of(reward: RewardConfig, prompts: Sequence[Prompt]) -> VerifierScorer:
    """The verifier of a reward, which judges by the references of `prompts` and scores no other prompts."""
    references = {prompt.dialogue: prompt.reference for prompt in prompts}
    return VerifierScorer(load_verifier(reward.verifier), references, name=reward.verifier)


def reward_path(path: str, runs_dir: str, key: str = "reward.path", say: Callable[[str], None] = print) -> Path | str:
    """The folder of a reward model: itself, the last checkpoint of a run's folder, or of the run with this id; or a hub id."""
    folder = Path(path).expanduser()
    if (found := runs_ending_in(path, runs_dir)) is not None:
        if len(found) != 1:
            raise ValueError(
                f"{key}={path} is no folder, and {len(found)} runs under {runs_dir} end with it; give a folder or a run's whole name."
            )
        folder = found[0]
    if not folder.exists() and folder.parent.name == "checkpoints" and (run_dir := folder.parent.parent).joinpath(RECORD).is_file():
        others = ", ".join(step_folder(run_dir, step).name for step in complete_steps(run_dir))
        raise ValueError(
            f"{key}={path} is not there: the run keeps the weights of {others or 'no step'}. Name one of these, or train with keep=all."
        )
    if (folder / RECORD).is_file():
        return _last_checkpoint(folder, f"{key}={path}", say)
    return folder if folder.is_dir() else path


def runs_ending_in(path: str, runs_dir: str) -> list[Path] | None:
    """The folders of the runs whose names end with `path`, as with an id; None where it is a folder, a hub id or a model of a package."""
    if Path(path).expanduser().exists() or "/" in path or path.startswith("pip:"):
        return None
    # Folders that hold runs alone: what `rewardloop publish` writes ends in their ids too.
    return sorted(place.parent for place in Path(runs_dir).glob(f"*/*{path}/{RECORD}")) if path else []


def _say_which(found: Path, key: str, asked: str, say: Callable[[str], None]) -> None:
    """Says that a run's name stands for its last checkpoint, where another one is its best."""
    run_dir = found.parent.parent
    if found == Path(asked).expanduser() or found.parent.name != "checkpoints" or not (run_dir / RECORD).is_file():
        return
    record = read_record(run_dir)
    best = step_folder(run_dir, record.get("best_step") or 0)
    if best != found and is_complete(best):
        by = f", by {record['best_metric']}" if record.get("best_metric") else ""
        say(f"{key}={asked} is a run: its last checkpoint is taken, {found.name}; its best one{by}, is {best}")


def at_best_checkpoint(reward: RewardConfig, runs_dir: str, say: Callable[[str], None] = print) -> RewardConfig:
    """The reward with the best checkpoint of a run where its path names the run: what is benchmarked, unless a checkpoint is named."""
    if not reward.path or "path" not in KINDS[reward.kind].models(reward):
        return reward
    last = reward_path(reward.path, runs_dir, say=say)
    if not isinstance(last, Path) or last.parent.name != "checkpoints" or last == Path(reward.path).expanduser():
        return reward
    run_dir = last.parent.parent
    record = read_record(run_dir)
    step = record.get("best_step")
    best = step_folder(run_dir, step) if step else last
    if not is_complete(best):
        say(f"reward.path={reward.path}: the weights of its best checkpoint, {best.name}, are gone, so the last one is scored, {last.name}")
        return replace(reward, path=str(last))
    by = f", by {record['best_metric']}" if record.get("best_metric") else ""
    others = "" if best == last else f"; the last one is {last}"
    say(f"reward.path={reward.path} is a run: its best checkpoint is scored, {best.name}{by}{others}")
    return replace(reward, path=str(best))


def _last_checkpoint(folder: Path, what: str, say: Callable[[str], None]) -> Path:
    """The checkpoint of a finished run's last step, as its record has it: an older one is another model."""
    record = read_record(folder)
    if record["status"] != RunStatus.finished:
        raise ValueError(f"{what} is not a finished run; let `rewardloop rm` finish it, or name a checkpoint of it.")
    step = record.get("step", record.get("last_step"))
    last = latest_complete(folder, say) if step is None else step_folder(folder, step)
    if last is None:
        raise ValueError(f"{what} is a run without a complete checkpoint; let `rewardloop rm` finish it.")
    if not is_complete(last):
        others = [step_folder(folder, other).name for other in complete_steps(folder)]
        raise ValueError(
            f"{what} ended at step {step}, whose checkpoint {last} is missing or not complete. Restore it, or name the checkpoint that you "
            f"want: {', '.join(others) or 'there is none, so remove the run and train again'}."
        )
    return last
