"""AlpacaEval's question: does a judge prefer the completion to a reference model's answer to the same prompt?"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from core.functions import SkippedError, Verifier
from core.records import user
from evalhooks.judges.config import JudgeConfig, build
from evalhooks.judges.config import require_usable as require_usable_judge
from evalhooks.judges.judge import RankingJudge

BASELINE = "output"
"""The key of a row's answer that the judge compares with."""


def preferred_by(config: JudgeConfig) -> Verifier:
    """The verifier that asks a judge: 1.0 if it prefers the completion to `reference["output"]`, else 0.0.

    The two are shown in an order drawn per prompt and pair, for want of which judges prefer the first. Raises `ValueError` for a judge
    that cannot be used; the verifier raises `SkippedError` where the judge gives no verdict.
    """
    require_usable_judge(config)

    @cache
    def judge() -> RankingJudge:
        built = build(config)
        return RankingJudge(built.chat, parser=config.parser, seed=config.seed)

    def preferred(completion: str, reference: Mapping[str, Any]) -> float:
        for key in ("instruction", BASELINE):
            if not isinstance(reference.get(key), str):
                raise ValueError(f"a row of AlpacaEval needs the text {key!r}; this one has {sorted(reference)}.")
        ranking = judge()
        if not completion.strip():
            return 0.0  # the judge need not be asked
        before = ranking.num_unparsable
        ((own, _),) = ranking.score([user(reference["instruction"])], [[completion, reference[BASELINE]]])
        if ranking.num_unparsable > before:
            raise SkippedError("the judge gave no verdict")
        return own

    return preferred
