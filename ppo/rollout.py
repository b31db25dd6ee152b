"""Episodes: sampled, scored, and measured by policy, reference and critic."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.batching import pad_left, pad_right
from core.chat import encode_prompts, pad_id
from core.logprobs import completion_logprobs
from core.records import Completion, Dialogue, Generator, Sampling, Scorer
from ppo.guards import require_finite_scores
from ppo.kl import kl_estimate
from ppo.model import ActorCritic


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """A batch of episodes. Prompts are padded at the start and completions at the end: the last T columns are completion.

    `scores_B` are the rewards as scored, before shaping. `logprobs_BT` are the trainer's, under the policy that drew;
    `engine_logprobs_BT` are those of the engine that drew, where it told them. `seconds` tells where the time went.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    scores_B: Tensor
    finished_B: Tensor
    seconds: dict[str, float]
    engine_logprobs_BT: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Width T of the completions."""
        return self.mask_BT.shape[1]

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each completion, EOS included."""
        return self.mask_BT.sum(-1)


def rollout(
    prompts: Sequence[Dialogue],
    *,
    generator: Generator,
    scorer: Scorer,
    model: ActorCritic,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    micro_batch_size: int,
) -> Episodes:
    """One completion per prompt with everything that the update needs; nothing here keeps a gradient.

    Raises `DivergenceError` where a score is not finite.
    """
    started = time.perf_counter()
    completions = [answers[0] for answers in generator.generate(prompts, sampling)]
    generated = time.perf_counter()
    scores_B = torch.tensor([row[0] for row in scorer.score(prompts, [[c.text] for c in completions])])
    require_finite_scores(scores_B)
    scored = time.perf_counter()
    ids_BL, mask_BL, mask_BT = _tensors(prompts, completions, tokenizer)
    logprobs_BT, reference_BT, values_BT = _measure(model, reference, ids_BL, mask_BL, mask_BT.shape[1], micro_batch_size)
    return Episodes(
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        reference_BT=reference_BT,
        values_BT=values_BT,
        scores_B=scores_B,
        finished_B=torch.tensor([c.finished for c in completions]),
        engine_logprobs_BT=_engine_logprobs(completions, mask_BT),
        seconds={"generation": generated - started, "scoring": scored - generated, "forward": time.perf_counter() - scored},
    )


def _tensors(
    prompts: Sequence[Dialogue], completions: Sequence[Completion], tokenizer: PreTrainedTokenizerBase
) -> tuple[Tensor, Tensor, Tensor]:
    pad = pad_id(tokenizer)
    prompt_BP, prompt_mask_BP = pad_left(encode_prompts(tokenizer, prompts), pad)
    # The ids that were drawn, not the text tokenised again: they can differ, and the ratio would be off.
    ids_BT, mask_BT = pad_right([c.token_ids for c in completions], pad)
    return torch.cat([prompt_BP, ids_BT], 1), torch.cat([prompt_mask_BP, mask_BT], 1), mask_BT


def _engine_logprobs(completions: Sequence[Completion], mask_BT: Tensor) -> Tensor | None:
    """The log-probabilities that the completions were drawn with, zero outside the mask; None where an engine does not tell."""
    known = [c.logprobs for c in completions if c.logprobs is not None]
    if len(known) < len(completions):
        return None
    engine_BT = torch.zeros(mask_BT.shape)
    engine_BT[mask_BT.bool()] = torch.tensor([logprob for row in known for logprob in row])
    return engine_BT


@torch.no_grad()
def _measure(
    model: ActorCritic, reference: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, micro_batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    device = reference.device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for ids, mask in zip(ids_BL.split(micro_batch_size), mask_BL.split(micro_batch_size), strict=True):
        ids, mask = ids.to(device), mask.to(device)
        logprobs, _, values = model(ids, mask, num_tokens)
        expected, _ = completion_logprobs(reference, ids, mask, num_tokens, temperature=model.temperature)
        parts.append((logprobs.cpu(), expected.cpu(), values.cpu()))
    logprobs_BT, reference_BT, values_BT = (torch.cat(part) for part in zip(*parts, strict=True))
    return logprobs_BT, reference_BT, values_BT


def rollout_metrics(episodes: Episodes) -> dict[str, float]:
    """KL to the reference in nats per completion, the raw score, length, EOS rate, and seconds spent.

    Where the engine that drew told its log-probabilities: `importance_gap`, the mean absolute difference to the trainer's.
    """
    mask_BT = episodes.mask_BT
    k1_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, "k1") * mask_BT).sum(-1)
    k3_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, "k3") * mask_BT).sum(-1)
    metrics = {
        "kl": k1_B.mean().item(),
        "kl_k3": k3_B.mean().item(),
        "rm_score": episodes.scores_B.mean().item(),
        "rm_score_std": episodes.scores_B.std(correction=0).item(),
        "length": episodes.lengths_B.float().mean().item(),
        "eos_rate": episodes.finished_B.float().mean().item(),
        **{f"seconds/{part}": seconds for part, seconds in episodes.seconds.items()},
    }
    if episodes.engine_logprobs_BT is not None:
        inside_BT = mask_BT.bool()
        gap_N = episodes.logprobs_BT[inside_BT] - episodes.engine_logprobs_BT[inside_BT]
        metrics["importance_gap"] = gap_N.abs().mean().item()
    return metrics
