"""A reward function: short, polite answers. Any program will do: a rule, a classifier, a call to a service.

    rewardloop bench reward=function reward.function=examples.reward_function:brief_and_polite rows=rows.jsonl
    rewardloop ppo reward=function reward.function=examples.reward_function:brief_and_polite ...

Run these in the folder above `examples/`; a function in ./my_rewards.py is `my_rewards:NAME`. Beside a reward model it is one more term:
`rewardloop ppo reward.path=RM rewards.manners.kind=function rewards.manners.function=... rewards.manners.coefficient=0.2`.
"""

MAX_WORDS = 60


def brief_and_polite(prompts: list[list[dict[str, str]]], completions: list[list[str]]) -> list[list[float]]:
    """One list of rewards per prompt, one reward per completion; `prompts` are lists of {"role", "content"}."""
    return [[_reward(text) for text in answers] for answers in completions]


def _reward(text: str) -> float:
    excess = max(0, len(text.split()) - MAX_WORDS)
    return float("please" in text.lower() or "thank" in text.lower()) - excess / MAX_WORDS
