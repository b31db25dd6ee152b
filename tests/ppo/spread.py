"""What `test_engines` has several processes do: `torchrun -m tests.ppo.spread POLICY_FOLDER OUT_FOLDER ENGINE...`.

Each engine trains a policy for five batches; then another is told to stop after its third batch, and goes on. The main process
writes down what was measured, how the weights lay, and whether stopping changed a bit.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.config import Dtype, EngineConfig, EngineKind, LoraConfig, ModelConfig, OptimConfig, RolloutConfig, RolloutKind
from core.hooks.run_context import RunContext
from core.models import logprobs
from core.models.load import load_policy
from core.process.exit import exit_without_teardown
from core.process.signals import Preempted
from core.process.world import World, join_world
from core.progress import NoProgress
from core.records import Prompt, Sampling, user
from core.runs.checkpoints import step_folder
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.tasks.task import Task
from ppo.advantages import gae, token_rewards
from ppo.config import KLConfig, PPOConfig
from ppo.session import open_session
from ppo.train import train
from tests.core.vllm.fake_server import Standin, serving
from tests.fakes import LengthScorer, ListTracker, RecordingHook, SignallingProgress

PROMPTS = [user(f"Name {'a ' * (number % 4)}fruit {number}.") for number in range(12)]
WATCHED = ("train/kl", "train/rm_score", "train/loss/policy", "train/loss/value", "train/grad_norm", "train/entropy", "train/advantage")


def config_of(policy: str, kind: str) -> PPOConfig:
    """Five batches of eight; the first three train the critic alone, so that what stops after the third resumes in between."""
    engine, _, lora = kind.partition("-")
    return PPOConfig(
        model=ModelConfig(path=policy),
        lora=LoraConfig(rank=4 if lora else 0),
        engine=EngineConfig(kind=EngineKind(engine)),
        prompts=["unused.jsonl"],
        optim=OptimConfig(lr=3e-3, weight_decay=0.1),
        critic_lr=3e-3,
        kl=KLConfig(beta=0.1, target=0.2, horizon=100),
        num_batches=5,
        value_warmup=3,
        num_checkpoints=2,
        batch_size=8,
        minibatch_size=4,
        micro_batch_size=1,
        max_new_tokens=6,
    )


# Five prompts, for two processes.
TASK = Task(
    name="long",
    prompts=tuple(Prompt(id=str(i), dialogue=user(f"long {'and ' * i}{i}"), reference={"length": 8}) for i in range(5)),
    verifier=lambda completion, reference: float(len(completion) >= reference["length"]),
)


def tracked(config: PPOConfig, run_dir: Path, world: World, progress: NoProgress | None = None) -> ListTracker:
    tracker = ListTracker()
    run_dir.mkdir(parents=True, exist_ok=True)
    policy_hook = PolicyHook(tasks={"long": TASK}, sampling=Sampling(n=3, max_new_tokens=12, seed=2), scorer=LengthScorer())
    hooks = [policy_hook, RecordingHook(**{"downstream/average": 1.0})]
    context = RunContext(dir=run_dir, world=world, hooks=hooks, tracker=tracker, progress=progress or NoProgress(), say=_quiet)
    train(config, context, prompts=PROMPTS, scorer=LengthScorer(), reward_model=None)
    return tracker


def rows_of(tracker: ListTracker) -> list[dict[str, float]]:
    return [{name: row[name] for name in WATCHED} for row in tracker.on("train/step").values()]


def layout_of(config: PPOConfig, world: World) -> dict[str, Any]:
    """The kind of the engine's module, and the share of the weights that this process holds."""
    session = open_session(config, prompts=PROMPTS, scorer=LengthScorer(), reward_model=None, world=world)
    parameters = list(session.engine.module.parameters())
    return {
        "module": type(session.engine.module).__name__,
        "bases": [base.__name__ for base in type(session.engine.module).__mro__],
        "dtensors": all(isinstance(parameter, DTensor) for parameter in parameters),
        "held": sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters),
        "partitioned": all("ds_id" in vars(parameter) and parameter.data.numel() == 0 for parameter in parameters),
        "stage": getattr(session.engine.module, "zero_optimization_stage", lambda: None)(),
    }


def served(config: PPOConfig, folder: Path, world: World) -> dict[str, Any]:
    """One batch drawn by a server that knows the policy from what it was sent alone, and what a server that fails is told as."""
    policy, tokenizer = load_policy(config.model)
    with torch.no_grad():
        policy.get_submodule("lm_head").get_parameter("weight").mul_(-1)  # other weights than the policy's, until it is sent them
    with serving(Standin(cast("Any", policy), cast("Any", tokenizer))) as server:
        url = world.from_main(lambda: server.url)
        rollouts = RolloutConfig(kind=RolloutKind.vllm, url=url, folder=str(folder / "weights"), dtype=Dtype.fp32)
        config = replace(config, rollout=rollouts)
        session = open_session(config, prompts=PROMPTS, scorer=LengthScorer(), reward_model=None, world=world, say=_quiet)
        episodes = session.episodes(0)
        assert episodes.engine_logprobs_BT is not None
        gap = (episodes.engine_logprobs_BT - episodes.logprobs_BT).abs().max().item()
        server.failures["/collective_rpc"] = [400]
        session.handover.done, told = False, ""
        try:
            session.episodes(1)
        except ValueError as error:
            told = str(error)
        return {"gap": gap, "told": world.all_gather(lambda: told)}


def drawn(config: PPOConfig, world: World) -> dict[str, Any]:
    """Two batches drawn in bf16 with an update in between, and what the copy that they were drawn from held."""
    config = replace(config, model=replace(config.model, dtype=Dtype.bf16))
    session = open_session(config, prompts=PROMPTS, scorer=LengthScorer(), reward_model=None, world=world, say=_quiet)
    policy = session.rollout_policy
    found: dict[str, Any] = {"before": stored_bytes(policy)}
    episodes = session.episodes(0)
    found |= {"ids": episodes.ids_BL.tolist(), "gap": episodes.importance_gap, "held": stored_bytes(policy)}
    rewards_BT = token_rewards(episodes.scores_B, torch.zeros_like(episodes.values_BT), episodes.mask_BT, beta=0.0)
    advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=1.0, lam=1.0)
    session.update(episodes, advantages, step=config.value_warmup + 1, kl_coef=0.0)
    found["after"] = stored_bytes(policy)
    found["second gap"] = session.episodes(1).importance_gap
    own = policy.state_dict()
    current = {name: weight.to(own[name].dtype).clone() for name, weight in session.engine.iter_weights("actor.")}
    found["current"] = all(torch.equal(own[name], weight) for name, weight in current.items())
    return found


def stored_bytes(model: PreTrainedModel) -> int:
    """The bytes of memory behind a model's weights."""
    return sum(weight.untyped_storage().nbytes() for weight in model.parameters())


def _quiet(line: str) -> None:
    pass


def main() -> None:
    policy, out, *kinds = sys.argv[1:]
    logprobs.CHUNK, logprobs.UNIT = 3 * 280, 3  # the logits of three tokens: every pass takes several chunks
    torch.set_num_threads(1)
    world = join_world()
    for kind in kinds:
        config, folder = config_of(policy, kind.removesuffix("-vllm").removesuffix("-drawn")), Path(out) / kind
        if kind.endswith(("-vllm", "-drawn")):
            found: dict[str, Any] = served(config, folder, world) if kind.endswith("-vllm") else drawn(config, world)
            if world.is_main:
                folder.mkdir(exist_ok=True)
                (folder / "found.json").write_text(json.dumps(found))
            world.barrier()
            continue
        whole = tracked(config, folder / "whole", world)
        found = {"rows": rows_of(whole), "untrained": whole.on("checkpoint/step").get(0)}
        try:
            tracked(config, folder / "torn", world, SignallingProgress(3, during="PPO") if world.is_main else None)
        except Preempted as stopped:
            found["stopped"] = str(stopped)
        found["rest"] = rows_of(tracked(config, folder / "torn", world))
        found |= layout_of(config, world)
        if world.is_main:
            file = "adapter_model.safetensors" if config.lora.rank else "model.safetensors"
            whole, torn = (load_file(step_folder(folder / name, 5) / file) for name in ("whole", "torn"))
            found["same"] = all(torch.equal(whole[name], torn[name]) for name in whole)
            (folder / "found.json").write_text(json.dumps(found))
        world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
