"""Configuration of a generative judge, and how it is built."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.config import ContentHashed, Dtype, Hashed, ModelConfig, Unhashed, require_positive
from core.models.locate import resolve
from core.progress import Progress
from evalhooks.judges import prompts
from evalhooks.judges.cache import AnswerCache, CachedChat
from evalhooks.judges.chat import Chat, EndpointChat, LocalChat
from evalhooks.judges.judge import Judge, RankingJudge, RatingJudge
from evalhooks.judges.parsers import Parser

UNPARSABLE = -1.0


class Mode(StrEnum):
    """Whether a judge rates completions one by one or picks the best of a row; Ties is always rated."""

    ratings = "ratings"
    rankings = "rankings"


@dataclass(kw_only=True)
class JudgeConfig:
    """A language model as a judge: behind an OpenAI-compatible endpoint (`model`) or in this process (`path`)."""

    mode: Hashed[Mode] = Mode.ratings
    parser: Hashed[Parser] = Parser.strict
    """How verdicts are parsed; `official` is for numbers comparable with published ones."""
    model: Hashed[str] = ""
    """Name of the model at the endpoint."""
    base_url: Unhashed[str] = ""
    """URL of the endpoint, such as http://localhost:8000/v1; empty: OPENAI_BASE_URL, else OpenAI's own."""
    api_key_env: Unhashed[str] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    path: ContentHashed[str] = ""
    """Local folder of a causal language model instead of an endpoint."""
    dtype: Hashed[Dtype] = Dtype.fp32
    """Number format of the local model."""
    max_tokens: Hashed[int] = 2048
    """Maximum length of a judge's answer."""
    temperature: Hashed[float] = 0.0
    """Of the judge's sampling."""
    timeout_s: Unhashed[float] = 60.0
    """Timeout of a request in seconds."""
    retries: Unhashed[int] = 4
    """Further tries of a request that failed."""
    parallel: Unhashed[int] = 16
    """Number of concurrent requests."""
    cache: Unhashed[str] = "~/.cache/rewardloop/judges.sqlite"
    """File of cached answers; several runs may share it."""
    seed: Hashed[int] = 0
    """Seed of the order in which ranked answers are shown, and of sampling at the endpoint if the temperature is above 0."""

    def __post_init__(self) -> None:
        require_positive("reward.judge.max_tokens", self.max_tokens)
        require_positive("reward.judge.parallel", self.parallel)
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ValueError(f"reward.judge.timeout_s is {self.timeout_s}; give the seconds to wait for an answer, for instance 60.")
        if self.retries < 0:
            raise ValueError(f"reward.judge.retries is {self.retries}; give 0 for a single attempt, or more.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"reward.judge.temperature is {self.temperature}; use 0 for the likeliest answer or a positive number.")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"reward.judge.base_url is {self.base_url}; it must begin with http:// or https://.")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # The value is not shown: it may well be the key.
            raise ValueError("reward.judge.api_key_env must be the name of an environment variable that holds the key, not the key itself.")
        if not self.cache:
            raise ValueError("reward.judge.cache is empty; name a file for the answers of the judge.")


def require_complete(config: JudgeConfig) -> None:
    """Raises `ValueError` unless the configuration names exactly one model, at an endpoint or local."""
    if not config.path and not config.model:
        raise ValueError(
            "reward.judge.model and reward.judge.path are both empty; name a model at an endpoint (reward.judge.model=NAME, with "
            "reward.judge.base_url=http://HOST:PORT/v1 unless it is OpenAI's) or the folder of one (reward.judge.path=FOLDER)."
        )
    if config.path and (config.model or config.base_url):
        endpoint = "model" if config.model else "base_url"
        raise ValueError(
            f"reward.judge.path={config.path} and reward.judge.{endpoint}={vars(config)[endpoint]} name two judges; empty one of them."
        )
    if config.path and config.temperature > 0:
        raise ValueError(f"reward.judge.temperature is {config.temperature}, but a judge from a folder decodes greedily; set it to 0.")


def require_usable(config: JudgeConfig) -> None:
    """Raises as `build` for what can be told without loading or asking a model: an incomplete configuration, no key, an unusable cache."""
    require_complete(config)
    AnswerCache(config.cache)
    if not config.path:
        _endpoint(config)


def build(config: JudgeConfig, *, pairs: bool = False, progress: Progress | None = None) -> Judge:
    """The judge of a configuration; a local model is loaded here, an endpoint is first contacted when something is scored.

    `pairs` is for RewardBench 1, where an unparsable rating becomes NaN, which its rules for judges treat as an undecided pair.
    Raises `ValueError` for an incomplete configuration, a missing package, key or folder, and an unusable cache.
    """
    require_complete(config)
    cache = AnswerCache(config.cache)
    chat, identity = _local(config) if config.path else _endpoint(config)
    cached = CachedChat(chat, cache, identity)
    if config.mode is Mode.rankings:
        rows = RankingJudge(cached, parser=config.parser, seed=config.seed, progress=progress)
    else:
        rows = RatingJudge(cached, parser=config.parser, unparsable=math.nan if pairs else UNPARSABLE, progress=progress)
    ties = RatingJudge(cached, prompt=prompts.ties_rating, parser=config.parser, unparsable=UNPARSABLE, progress=progress)
    return Judge(rows=rows, ties=ties, chat=cached)


def _endpoint(config: JudgeConfig) -> tuple[Chat, dict[str, Any]]:
    chat = EndpointChat(
        model=config.model,
        base_url=config.base_url,
        api_key_env=config.api_key_env,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        # Greedy decoding needs no seed, and some servers reject one.
        seed=config.seed if config.temperature > 0 else None,
        timeout_s=config.timeout_s,
        retries=config.retries,
        parallel=config.parallel,
    )
    return chat, {"endpoint": chat.endpoint, **chat.request}


def _local(config: JudgeConfig) -> tuple[Chat, dict[str, Any]]:
    model_config = ModelConfig(path=config.path, dtype=config.dtype)
    source = resolve(model_config, "reward.judge.path")
    from core.data.dates import date_of
    from core.generators.local import TransformersGenerator
    from core.models.load import load_policy

    model, tokenizer = load_policy(model_config)
    chat = LocalChat(TransformersGenerator(model, tokenizer), max_tokens=config.max_tokens)
    # A folder may be overwritten under the same name, for instance by the next run that trains the judge.
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in Path(source).glob("*") if file.is_file())
    identity = {"path": source, "files": files, "dtype": config.dtype, "temperature": 0.0, "max_tokens": config.max_tokens}
    # A template that writes the date asks another question on another day; a run that goes on keeps its day, and so its answers.
    day = date_of(tokenizer)
    return chat, identity if day is None else identity | {"date": day.isoformat()}
