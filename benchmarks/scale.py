"""The tables of docs/scale.md: `python -m benchmarks.scale` writes them into the page, from the formulas of `core.engines.footprint`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from core.config import Dtype, EngineKind, Offload
from core.engines import footprint
from core.engines.footprint import BF16, LLAMA_8B, LLAMA_70B, Decoder, Way

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
GPU, OVERHEAD = 80e9, 4e9
"""Bytes of a GPU, and what CUDA, NCCL and unusable gaps take of them: assumed, not measured."""
ROWS, LENGTH = 28, 4096
"""PPO as in experiment=rb2_ppo: rows that a process draws, and tokens of a row at most."""
Terms = dict[str, float]


def rm_terms(decoder: Decoder, way: Way, *, num_tokens: int) -> Terms:
    """Bytes per GPU of reward-model training, passes of `num_tokens` tokens, with gradient checkpointing."""
    terms = {
        "weights": footprint.weights(decoder.reward_model, way),
        "gradients": footprint.gradients(decoder.reward_model, way),
        "optimiser": footprint.optimizer(decoder.reward_model, way),
    }
    return _on_gpu(terms, way) | {
        "whole while used": footprint.gathered(decoder, way, num_rest=2 * decoder.hidden),
        "gradients on their way": footprint.passing_gradients(decoder, way),
        "activations": footprint.activations(decoder, num_tokens, way, recompute=True),
        "CUDA, NCCL, gaps": OVERHEAD,
    }


def ppo_terms(decoder: Decoder, way: Way, *, num_rows: int, served: bool, scored_here: bool) -> Terms:
    """Bytes per GPU of PPO, at its fullest moment, with `num_rows` in a pass of the update.

    `served`: a vLLM server draws; `scored_here`: the reward model is on each GPU.
    """
    trained = decoder.policy + decoder.reward_model
    held = {
        "actor and critic: weights": footprint.weights(trained, way),
        "gradients": footprint.gradients(trained, way),
        "optimiser": footprint.optimizer(trained, way),
        "reference": footprint.reference(decoder, way),
    }
    always = _on_gpu(held, way) | {"reward model": BF16 * decoder.reward_model if scored_here else 0, "CUDA, NCCL, gaps": OVERHEAD}
    heads = 2 * decoder.embedding + 4 * decoder.hidden
    updating = {
        "whole while used": footprint.gathered(decoder, way, num_rest=heads),
        "gradients on their way": footprint.passing_gradients(decoder, way),
        "activations of both": 2 * footprint.activations(decoder, num_rows * LENGTH, way, recompute=True),
        "logits": footprint.logits(decoder, num_rows * LENGTH),
    }
    drawing = {
        "policy to draw from": 0 if served else footprint.drawn_from(decoder, way),
        "KV cache": 0 if served else footprint.kv_cache(decoder, ROWS * LENGTH),
    }
    # They take turns, and gradients are there in updates alone.
    fullest = max(sum(updating.values()) + always["gradients"], sum(drawing.values()))
    return always | updating | drawing | {"at once": sum(always.values()) - always["gradients"] + fullest}


def _on_gpu(held: Terms, way: Way) -> Terms:
    """What is left of these on the GPU."""
    match way.offload:
        case Offload.none:
            return held
        case Offload.optimizer:
            return held | {"optimiser": 0}
        case Offload.all:
            return dict.fromkeys(held, 0.0)


def on_host(held: Terms, way: Way) -> float:
    """Bytes in the memory of a machine with 8 GPUs for what is offloaded."""
    return 8 * (sum(held.values()) - sum(_on_gpu(held, way).values()))


def fewest(terms: Callable[[Way], Terms], kind: EngineKind) -> int:
    """The fewest GPUs of 80 GB, in machines of 8, on which it fits without offloading."""
    return next(num for num in range(8, 1025, 8) if total(terms(Way(kind=kind, processes=num))) <= GPU)


def total(terms: Terms) -> float:
    """The sum of what is there at once."""
    return terms.get("at once", sum(terms.values()))


def table(columns: Mapping[str, Terms]) -> str:
    """A table in GB with a column for each way of training, and whether it fits."""
    names = [name for name in next(iter(columns.values())) if name != "at once"]
    rows = [["GB per GPU", *columns], ["---", *["---:"] * len(columns)]]
    rows += [[name, *(f"{terms[name] / 1e9:.1f}" if terms[name] else "" for terms in columns.values())] for name in names]
    rows.append(["**at once**", *(f"**{total(terms) / 1e9:.0f}**" for terms in columns.values())])
    rows.append(["fits in 80 GB", *("yes" if total(terms) <= GPU else "no" for terms in columns.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _way(kind: str, processes: int, *, dtype: Dtype = Dtype.bf16, offload: Offload = Offload.none) -> Way:
    return Way(kind=EngineKind(kind), processes=processes, dtype=dtype, offload=offload)


def tables() -> dict[str, str]:
    """The tables of the page by name."""
    rm_8b = {
        "fsdp2": _way("fsdp2", 8),
        "fsdp2, fp32": _way("fsdp2", 8, dtype=Dtype.fp32),
        "fsdp2, offload=all": _way("fsdp2", 8, offload=Offload.all),
        "zero3": _way("zero3", 8),
        "zero2": _way("zero2", 8),
        "ddp": _way("ddp", 8),
    }
    rm_70b = {
        "8: fsdp2": _way("fsdp2", 8),
        "8: fsdp2, offload=all": _way("fsdp2", 8, offload=Offload.all),
        "16: fsdp2": _way("fsdp2", 16),
        "16: zero3": _way("zero3", 16),
        "16: zero3, offload=optimizer": _way("zero3", 16, offload=Offload.optimizer),
        "32: fsdp2": _way("fsdp2", 32),
    }
    eight, sixteen = _way("fsdp2", 8), _way("fsdp2", 16, offload=Offload.all)
    ppo_8b = {
        "fsdp2": ppo_terms(LLAMA_8B, eight, num_rows=2, served=False, scored_here=True),
        "fsdp2, offload=all": ppo_terms(LLAMA_8B, _way("fsdp2", 8, offload=Offload.all), num_rows=2, served=False, scored_here=True),
        "fsdp2, vLLM": ppo_terms(LLAMA_8B, eight, num_rows=2, served=True, scored_here=True),
        "fsdp2, vLLM, offload=all": ppo_terms(LLAMA_8B, _way("fsdp2", 8, offload=Offload.all), num_rows=2, served=True, scored_here=True),
        "zero3, vLLM": ppo_terms(LLAMA_8B, _way("zero3", 8), num_rows=2, served=True, scored_here=True),
        "zero2, vLLM": ppo_terms(LLAMA_8B, _way("zero2", 8), num_rows=2, served=True, scored_here=True),
    }
    ppo_70b = {
        "fsdp2, vLLM": ppo_terms(LLAMA_70B, _way("fsdp2", 16), num_rows=1, served=True, scored_here=False),
        "fsdp2, vLLM, offload=all": ppo_terms(LLAMA_70B, sixteen, num_rows=1, served=True, scored_here=False),
        "zero3, vLLM": ppo_terms(LLAMA_70B, _way("zero3", 16), num_rows=1, served=True, scored_here=False),
    }
    return {
        "rm-8b": table({name: rm_terms(LLAMA_8B, way, num_tokens=8192) for name, way in rm_8b.items()}),
        "rm-70b": table({name: rm_terms(LLAMA_70B, way, num_tokens=4096) for name, way in rm_70b.items()}),
        "ppo-8b": table(ppo_8b),
        "ppo-70b": table(ppo_70b),
        "other": _other(),
    }


def _other() -> str:
    """From how many GPUs 70B fits without offloading, and what offloading takes of the machines' memory."""
    rm, both = LLAMA_70B.reward_model, LLAMA_70B.policy + LLAMA_70B.reward_model
    eight, sixteen = _way("fsdp2", 8, offload=Offload.all), _way("fsdp2", 16, offload=Offload.all)

    def of(num: int, way: Way) -> Terms:
        return {
            "weights": footprint.weights(num, way),
            "gradients": footprint.gradients(num, way),
            "moments": footprint.optimizer(num, way),
        }

    ppo = of(both, sixteen) | {"reference": footprint.reference(LLAMA_70B, sixteen)}
    rm_gpus = fewest(lambda way: rm_terms(LLAMA_70B, way, num_tokens=4096), EngineKind.fsdp2)
    ppo_gpus = fewest(lambda way: ppo_terms(LLAMA_70B, way, num_rows=1, served=True, scored_here=False), EngineKind.fsdp2)
    return "\n".join(
        [
            "| 70B, `engine=fsdp2` | GPUs without offloading, at least | memory of a machine of 8 GPUs with `engine.offload=all` |",
            "| --- | ---: | ---: |",
            f"| reward model | {rm_gpus} | {on_host(of(rm, eight), eight) / 1e12:.2f} TB on one machine |",
            f"| PPO with vLLM and a served reward model | {ppo_gpus} | {on_host(ppo, sixteen) / 1e12:.2f} TB on each of two |",
        ]
    )


def written(page: str) -> str:
    """The page with its tables made anew. Raises `KeyError` for a table that is not known."""
    made = tables()
    return re.sub(
        r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
