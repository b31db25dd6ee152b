"""What studies on a world small enough for a test have in common, and how they are chosen: as users choose an experiment of their own."""

from pathlib import Path

HEAD = """# @package _global_
study: tiny
embedded: true
world: {seed: "${seed}", corpus_size: 160, pairs: 64, benchmark_rows: 3, task_rows: 2, vocab_size: 600}
policy: {seed: "${seed}"}
common: ["tracker=files"]
pools: ["pool.n=4", "pool.max_new_tokens=4"]
"""


def short(batches: int) -> str:
    """The overrides of a PPO run of so many batches, with a checkpoint at each."""
    sizes = "batch_size=8, minibatch_size=8, micro_batch_size=8, max_new_tokens=4, hooks.downstream.n=1, hooks.downstream.max_new_tokens=4"
    return f"[num_batches={batches}, num_checkpoints={batches}, {sizes}]"


def chosen(folder: Path, text: str, name: str = "tiny") -> list[str]:
    """The overrides that choose an experiment of this text, which is written into `folder`."""
    file = folder / "mine" / "experiment" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return [f"hydra.searchpath=[file://{folder / 'mine'}]", f"experiment={name}"]
