"""A load shaped like RewardBench 2 on an 8B model: 1,865 prompts with 8,977 texts of 3.2M tokens before sharing."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import PEAK, Scale, classifier, word_tokenizer, words
from benchmarks.machine import forward_flops, peak_mib, reset_peak, seconds
from core.data.token_rows import token_rows
from core.records import user
from core.scorers.reward_model import RewardModelScorer
from core.trees.layout import pack_trees

PROMPTS, TIES, TIE_ANSWERS = 1865, 102, 19
"""Of 1,865 prompts 102 are of the domain Ties, with 19 short answers on average; the others have 4."""


def rewardbench(scale: Scale) -> Iterator[Finding]:
    """Texts to rewards through the scorer, tokenisation included; a share of the prompts, from which the whole is computed."""
    draw = np.random.default_rng(0)
    size = scale.eight
    limit = 40 if scale.tiny else 2000
    prompts, answers = [], []
    for number in range(scale.benchmark_prompts):
        is_tie = number % PROMPTS < TIES * scale.benchmark_prompts / PROMPTS
        lengths = draw.lognormal(2.5, 0.5, TIE_ANSWERS) if is_tie else draw.lognormal(5.35, 0.75, 4)
        prompts.append(user(words(min(limit, int(draw.lognormal(4.0, 0.9)) + 3), size, draw)))
        answers.append([words(min(limit, int(length) + 2), size, draw) for length in lengths])
    scorer = RewardModelScorer(classifier(size, torch.bfloat16), word_tokenizer(size))
    rows = token_rows(scorer.tokenizer, prompts, answers, scorer.max_length)
    groups = [[rows.rows[i] for i in place] for place in rows.places]
    streams = [pack_trees([group], whole=True) for group in groups]
    unique = sum(stream.num_tokens for stream in streams)
    seen = sum(int((stream.subtree_end_N - torch.arange(stream.num_tokens)).sum()) for stream in streams)
    scorer.score(prompts[:8], answers[:8])
    reset_peak()
    spent = seconds(lambda: scorer.score(prompts, answers))
    flops = forward_flops(scorer.model, unique, seen)
    scale_up = PROMPTS / scale.benchmark_prompts
    tokens = sum(len(row) for row in rows.rows)
    yield {
        "what": f"{len(prompts)} of {PROMPTS} prompts, {len(rows.rows)} texts, {tokens} tokens, {unique} unique",
        "s": spent,
        "s for all": spent * scale_up,
        "s for all at the peak": flops * scale_up / PEAK,
        "s for all at the peak, padded": flops * scale_up / PEAK * tokens / unique,
        "MFU": flops / spent / PEAK,
        "peak MiB": peak_mib(),
    }
