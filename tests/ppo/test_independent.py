"""Every formula beside an implementation in plain Python, token by token, on random episodes."""

import math
import random
from dataclasses import dataclass
from statistics import fmean, pstdev

import pytest
import torch
from torch import Tensor

from core.config import ModelConfig
from ppo.advantages import Advantages, gae, whiten
from ppo.config import Center, KLConfig, KLEstimator, KLPlace, MissingEOS, MissingEOSConfig, OverlongConfig, PPOConfig, Scale, ShapingConfig
from ppo.rollout import Episodes
from ppo.shaping import ScoreStatistics
from ppo.train import rewards, shaped
from ppo.update import MicroBatch, total_loss

LIMIT = 12


@dataclass(kw_only=True)
class Token:
    """All that is known of one token."""

    logprob: float
    old: float
    reference: float
    engine: float
    value: float
    old_value: float
    entropy: float
    reward: float = 0.0
    advantage: float = 0.0
    goal: float = 0.0


@dataclass(kw_only=True)
class Episode:
    """A completion with its raw score."""

    tokens: list[Token]
    score: float
    finished: bool


def drawn(draw: random.Random, num_episodes: int = 7) -> list[Episode]:
    """Random episodes; some are cut at the limit, and tokens move far enough for every clip to bind somewhere."""
    episodes: list[Episode] = []
    for _ in range(num_episodes):
        length = draw.choice([1, 2, 5, 9, LIMIT])
        tokens = [
            Token(
                logprob=(old := draw.uniform(-4, 0)) + draw.gauss(0, 0.7),
                old=old,
                reference=old + draw.gauss(0, 0.5),
                engine=old + draw.gauss(0, 0.5),
                value=(old_value := draw.gauss(0, 1)) + draw.gauss(0, 0.4),
                old_value=old_value,
                entropy=draw.uniform(0, 3),
            )
            for _ in range(length)
        ]
        episodes.append(Episode(tokens=tokens, score=draw.gauss(2, 4), finished=length < LIMIT))
    return episodes


def plain_kl(logprob: float, reference: float, estimator: str) -> float:
    ratio = math.exp(reference) / math.exp(logprob)
    return {"k1": -math.log(ratio), "k2": 0.5 * math.log(ratio) ** 2, "k3": ratio - 1 - math.log(ratio)}[estimator]


def plain_scores(episodes: list[Episode], before: list[float], config: PPOConfig) -> list[float]:
    shaping, found = config.shaping, []
    everything = before + [episode.score for episode in episodes]
    for episode in episodes:
        score = episode.score
        if shaping.center != "none":
            score -= fmean(everything if shaping.center == "running" else before)
        score /= shaping.std or pstdev(everything if shaping.scale == "running" else before)
        if shaping.clip is not None:
            score = max(-shaping.clip, min(shaping.clip, score))
        if not episode.finished and shaping.missing_eos.how != "keep":
            value = shaping.missing_eos.value or 0.0
            score = value if shaping.missing_eos.how == "replace" else score - value
        if shaping.overlong.buffer:
            free = LIMIT - shaping.overlong.buffer
            if len(episode.tokens) > free:
                score -= shaping.overlong.penalty * (len(episode.tokens) - free) / shaping.overlong.buffer
        found.append(score)
    return found


def plain_advantages(episodes: list[Episode], scores: list[float], kl_coef: float, config: PPOConfig) -> None:
    """Fills rewards, advantages and returns: the advantage as the sum of discounted TD errors, not as a recursion."""
    for episode, score in zip(episodes, scores, strict=True):
        tokens = episode.tokens
        for token in tokens:
            token.reward = -kl_coef * plain_kl(token.old, token.reference, config.kl.estimator) if config.kl.place == "reward" else 0.0
        tokens[-1].reward += score
        errors = []
        for t, token in enumerate(tokens):
            following = tokens[t + 1].old_value if t + 1 < len(tokens) else 0.0
            errors.append(token.reward + config.gamma * following - token.old_value)
        for t, token in enumerate(tokens):
            token.advantage = sum((config.gamma * config.lam) ** (later - t) * errors[later] for later in range(t, len(tokens)))
            token.goal = token.advantage + token.old_value
    if config.whiten_advantages:
        all_tokens = [token for episode in episodes for token in episode.tokens]
        found = [token.advantage for token in all_tokens]
        mean, spread = fmean(found), math.sqrt(pstdev(found) ** 2 + 1e-8)
        for token in all_tokens:
            token.advantage = (token.advantage - mean) / spread


def plain_loss(episodes: list[Episode], kl_coef: float, config: PPOConfig) -> dict[str, float]:
    """The loss and its parts as sums over tokens, case by case instead of by maxima."""
    names = "policy_loss value_loss kl_loss entropy num_clipped num_dual_clipped num_values_clipped importance_weight"
    sums = dict.fromkeys(names.split(), 0.0)
    for token in (token for episode in episodes for token in episode.tokens):
        ratio, advantage = math.exp(token.logprob) / math.exp(token.old), token.advantage
        used = ratio
        if advantage > 0 and ratio > 1 + config.clip:
            used, sums["num_clipped"] = 1 + config.clip, sums["num_clipped"] + 1
        if advantage < 0 and ratio < 1 - config.clip:
            used, sums["num_clipped"] = 1 - config.clip, sums["num_clipped"] + 1
        if config.dual_clip and advantage < 0 and ratio > config.dual_clip:
            used, sums["num_dual_clipped"] = config.dual_clip, sums["num_dual_clipped"] + 1
        weight = min(math.exp(token.old) / math.exp(token.engine), config.importance_cap) if config.importance_cap else 1.0
        sums["importance_weight"] += weight
        sums["policy_loss"] -= weight * used * advantage
        near = max(token.old_value - config.value_clip, min(token.old_value + config.value_clip, token.value))
        errors = [(token.value - token.goal) ** 2, (near - token.goal) ** 2]
        sums["value_loss"] += max(errors) / 2
        sums["num_values_clipped"] += errors[1] > errors[0]
        sums["entropy"] += token.entropy
        if config.kl.place == "loss":
            sums["kl_loss"] += plain_kl(token.logprob, token.reference, config.kl.estimator)
    actor = sums["policy_loss"] + kl_coef * sums["kl_loss"] - config.entropy_coef * sums["entropy"]
    return {**sums, "loss": actor + config.value_coef * sums["value_loss"]}


def grid(episodes: list[Episode], name: str) -> Tensor:
    """One number of every token, (B, T); what lies behind an episode's end is garbage and must not matter."""
    width = max(len(episode.tokens) for episode in episodes)
    rows = [[float(getattr(token, name)) for token in episode.tokens] for episode in episodes]
    return torch.tensor([row + [77.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def tensors(episodes: list[Episode]) -> Episodes:
    lengths_B1 = torch.tensor([[len(episode.tokens)] for episode in episodes])
    mask_BT = (torch.arange(int(lengths_B1.max())) < lengths_B1).long()
    return Episodes(
        ids_BL=torch.zeros_like(mask_BT),
        mask_BL=mask_BT,
        mask_BT=mask_BT,
        logprobs_BT=grid(episodes, "old"),
        reference_BT=grid(episodes, "reference"),
        values_BT=grid(episodes, "old_value"),
        scores_B=torch.tensor([episode.score for episode in episodes], dtype=torch.float64),
        finished_B=torch.tensor([episode.finished for episode in episodes]),
        seconds={},
        engine_logprobs_BT=grid(episodes, "engine"),
    )


def random_config(draw: random.Random) -> PPOConfig:
    """Any combination of the knobs."""
    place = draw.choice(list(KLPlace))
    scale = draw.choice(list(Scale))
    how = draw.choice(list(MissingEOS))
    return PPOConfig(
        model=ModelConfig(path="."),
        prompts=["."],
        max_new_tokens=LIMIT,
        gamma=draw.uniform(0.9, 1),
        lam=draw.uniform(0.8, 1),
        dual_clip=draw.choice([None, 1.5, 3.0]),
        value_coef=draw.uniform(0, 1),
        entropy_coef=draw.choice([0.0, 0.1]),
        importance_cap=draw.choice([None, 1.2, 2.0]),
        whiten_advantages=draw.random() < 0.5,
        kl=KLConfig(place=place, estimator=draw.choice(list(KLEstimator)[1:] if place == KLPlace.loss else list(KLEstimator))),
        shaping=ShapingConfig(
            center=draw.choice(list(Center)),
            scale=scale,
            std=2.5 if scale == Scale.fixed else None,
            clip=draw.choice([None, 1.0]),
            missing_eos=MissingEOSConfig(how=how, value=None if how == MissingEOS.keep else 1.5),
            overlong=OverlongConfig(buffer=draw.choice([0, 5]), penalty=draw.uniform(0.5, 2)),
        ),
    )


@pytest.mark.parametrize("seed", range(40))
def test_scores_rewards_advantages_returns_and_losses_equal_those_of_plain_python(seed: int) -> None:
    draw = random.Random(seed)
    config, listed, kl_coef = random_config(draw), drawn(draw), draw.uniform(0.01, 0.5)
    before = [draw.gauss(1, 3) for _ in range(5)]
    episodes = tensors(listed)
    inside_BT = episodes.mask_BT.bool()

    statistics = ScoreStatistics.of_reference(torch.tensor(before, dtype=torch.float64)).seen(episodes.scores_B)
    scores_B = shaped(episodes, statistics, config)
    rewards_BT = rewards(episodes, scores_B, kl_coef, config)
    advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = Advantages(advantages_BT=whiten(advantages.advantages_BT, episodes.mask_BT), returns_BT=advantages.returns_BT)
    scores = plain_scores(listed, before, config)
    plain_advantages(listed, scores, kl_coef, config)

    assert scores_B.tolist() == pytest.approx(scores, abs=1e-6)
    for ours_BT, name in ((rewards_BT, "reward"), (advantages.advantages_BT, "advantage"), (advantages.returns_BT, "goal")):
        assert ours_BT[inside_BT].tolist() == pytest.approx(grid(listed, name)[inside_BT].tolist(), abs=1e-6), name

    batch = MicroBatch(
        mask_BT=episodes.mask_BT,
        old_logprobs_BT=episodes.logprobs_BT,
        reference_BT=episodes.reference_BT,
        engine_logprobs_BT=episodes.engine_logprobs_BT,
        old_values_BT=episodes.values_BT,
        advantages_BT=advantages.advantages_BT,
        returns_BT=advantages.returns_BT,
    )
    outputs = grid(listed, "logprob"), grid(listed, "entropy"), grid(listed, "value")
    total = total_loss(*outputs, batch, config, kl_coef=kl_coef, train_policy=True)
    expected = plain_loss(listed, kl_coef, config)
    assert total.loss.item() == pytest.approx(expected.pop("loss"), abs=1e-6)
    assert {name: getattr(total.sums, name).item() for name in expected} == pytest.approx(expected, abs=1e-6)
    critic_alone = total_loss(*outputs, batch, config, kl_coef=kl_coef, train_policy=False)
    assert critic_alone.loss.item() == pytest.approx(config.value_coef * expected["value_loss"], abs=1e-6)


def test_the_random_inputs_reach_every_case() -> None:
    reached = dict.fromkeys(("num_clipped", "num_dual_clipped", "num_values_clipped"), 0.0)
    for seed in range(40):
        draw = random.Random(seed)
        config, listed = random_config(draw), drawn(draw)
        plain_advantages(listed, plain_scores(listed, [0.0, 1.0], config), 0.1, config)
        found = plain_loss(listed, 0.1, config)
        reached = {name: count + found[name] for name, count in reached.items()}
    assert min(reached.values()) > 20
