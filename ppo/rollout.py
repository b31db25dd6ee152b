"""Episodes: sampled, scored, and measured by policy, reference and critic.

Shapes: B episodes, T tokens of a completion, P tokens of a prompt, L tokens of both.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.data.chat import encode_prompts, pad_id
from core.data.padding import pad_left, pad_right
from core.generators.shared import draw_share
from core.process.precision import without_autocast
from core.process.world import World
from core.records import Completion, Dialogue, Generator, Sampling
from core.scorers.weighted import WeightedScorer
from ppo.guards import require_finite_scores
from ppo.model import Networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """A batch of episodes, complete on every process. Prompts are padded at the start and completions at the end, so the last T
    columns are the completions.

    `scores_B` are the rewards before shaping, and `terms` the raw scores that they combine. `logprobs_BT` are the trainer's
    log-probabilities under the policy that sampled, `engine_logprobs_BT` those of the engine that sampled, if it reports them.
    `num_truncated` counts the texts that reward models cut, None if none could, and `num_skipped` the answers that verifiers could not
    judge, None without one. `seconds` are the durations of each part on the slowest process.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    scores_B: Tensor
    finished_B: Tensor
    seconds: Mapping[str, float]
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    engine_logprobs_BT: Tensor | None = None
    num_truncated: int | None = None
    num_skipped: int | None = None

    @property
    def num_tokens(self) -> int:
        """Width T of the completions."""
        return self.mask_BT.shape[1]

    @property
    def importance_gap(self) -> float | None:
        """Mean absolute difference between the trainer's and the engine's log-probabilities in nats, if the engine reports them."""
        if self.engine_logprobs_BT is None:
            return None
        inside_BT = self.mask_BT.bool()
        return (self.logprobs_BT[inside_BT] - self.engine_logprobs_BT[inside_BT]).abs().mean().item()

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each completion, EOS included."""
        return self.mask_BT.sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredCompletions:
    """One completion for each of some prompts, with its raw score by every term of the reward."""

    completions: Sequence[Completion]
    terms: Mapping[str, Sequence[float]]
    seconds: Mapping[str, float]
    num_truncated: int | None
    """Texts that reward models cut; None if none could."""
    num_skipped: int | None
    """Answers that verifiers could not judge; None without one."""


def draw(
    prompts: Sequence[Dialogue], generator: Generator | None, scorer: WeightedScorer, sampling: Sampling, world: World
) -> ScoredCompletions:
    """One completion for each of this process's share of the prompts, scored. All processes call it."""
    started = time.perf_counter()
    completions = [answers[0] for answers in draw_share(generator, prompts, sampling, world)]
    generated, cut, skipped = time.perf_counter(), scorer.num_truncated, scorer.num_skipped
    with without_autocast():
        terms = scorer.parts(prompts[world.shard(len(prompts))], [[completion.text] for completion in completions])
    seconds = {"generation": generated - started, "scoring": time.perf_counter() - generated}
    return ScoredCompletions(
        completions=completions,
        terms={name: [row[0] for row in rows] for name, rows in terms.items()},
        seconds=seconds,
        num_truncated=_since(cut, scorer.num_truncated),
        num_skipped=_since(skipped, scorer.num_skipped),
    )


def _since(before: int | None, now: int | None) -> int | None:
    return None if now is None else now - (before or 0)


def _together(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def rollout(
    prompts: Sequence[Dialogue],
    *,
    world: World,
    generator: Generator | None,
    scorer: WeightedScorer,
    networks: Networks,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    micro_batch_size: int,
) -> Episodes:
    """One completion per prompt with everything that the update needs; nothing here keeps a gradient.

    Every process samples, scores and measures its share. If only the main process has a `generator` (None on all others), it
    samples for all. The first rollout of a run fits the scorer's moments.

    Raises `DivergenceError` if a score is not finite.
    """
    parts = world.all_gather(lambda: draw(prompts, generator, scorer, sampling, world))
    completions = [completion for part in parts for completion in part.completions]
    terms = {name: torch.tensor([score for part in parts for score in part.terms[name]]) for name in parts[0].terms}
    scores_B = combined_scores(scorer, terms)
    started = time.perf_counter()
    ids_BL, mask_BL, mask_BT = _tensors(prompts, completions, tokenizer)
    logprobs_BT, values_BT, reference_BT = _measure(networks, ids_BL, mask_BL, mask_BT.shape[1], micro_batch_size, world)
    seconds = {name: max(part.seconds[name] for part in parts) for name in parts[0].seconds}
    return Episodes(
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        reference_BT=reference_BT,
        values_BT=values_BT,
        scores_B=scores_B,
        finished_B=torch.tensor([completion.finished for completion in completions]),
        seconds={**seconds, "forward": time.perf_counter() - started},
        terms=terms,
        engine_logprobs_BT=_engine_logprobs(completions, mask_BT),
        num_truncated=_together([part.num_truncated for part in parts]),
        num_skipped=_together([part.num_skipped for part in parts]),
    )


def combined_scores(scorer: WeightedScorer, terms: Mapping[str, Tensor]) -> Tensor:
    """The rewards that the terms' raw scores combine to, of shape (B,). Raises `DivergenceError` if one is not finite."""
    for name, scores_B in terms.items():
        require_finite_scores(scores_B, name)
    parts = {name: [[score] for score in scores_B.tolist()] for name, scores_B in terms.items()}
    if scorer.unfitted:
        scorer.fit(parts)
    scores_B = torch.tensor([row[0] for row in scorer.combined(parts)])
    require_finite_scores(scores_B, "the weighted sum of rewards")  # finite terms may overflow together
    return scores_B


def _tensors(
    prompts: Sequence[Dialogue], completions: Sequence[Completion], tokenizer: PreTrainedTokenizerBase
) -> tuple[Tensor, Tensor, Tensor]:
    pad = pad_id(tokenizer)
    prompt_BP, prompt_mask_BP = pad_left(encode_prompts(tokenizer, prompts), pad)
    # The ids that were sampled, not the text tokenised again: the two can differ, and the ratio would be wrong.
    ids_BT, mask_BT = pad_right([c.token_ids for c in completions], pad)
    return torch.cat([prompt_BP, ids_BT], 1), torch.cat([prompt_mask_BP, mask_BT], 1), mask_BT


def _engine_logprobs(completions: Sequence[Completion], mask_BT: Tensor) -> Tensor | None:
    """The log-probabilities that the completions were sampled with, zero outside the mask; None if the engine does not report them."""
    known = [c.logprobs for c in completions if c.logprobs is not None]
    if len(known) < len(completions):
        return None
    engine_BT = torch.zeros(mask_BT.shape)
    engine_BT[mask_BT.bool()] = torch.tensor([logprob for row in known for logprob in row])
    return engine_BT


@torch.no_grad()
def _measure(
    networks: Networks, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, micro_batch_size: int, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and the reference's log-probabilities of all rows, each of shape (B, T), on the CPU."""
    own = world.shard(len(ids_BL))
    measured: list[tuple[Tensor, ...]] = []
    # If rows are padded, then to the width of the whole batch, as in the update: at another width attention rounds differently.
    for ids, mask in zip(ids_BL[own].split(micro_batch_size), mask_BL[own].split(micro_batch_size), strict=True):
        output = networks(ids, mask, num_tokens, entropy=False, with_reference=True)
        assert output.reference_BT is not None
        measured.append((output.logprobs_BT, output.values_BT, output.reference_BT))
    # Fetched at the end: the device goes from one micro batch to the next.
    parts = [tuple(tensor.float().cpu() for tensor in part) for part in measured]
    whole = [part for share in world.all_gather(lambda: parts) for part in share]
    logprobs_BT, values_BT, reference_BT = (torch.cat(rows) for rows in zip(*whole, strict=True))
    return logprobs_BT, values_BT, reference_BT
