"""A base model of a microworld with a different tokenizer and chat template.

    python -m benchmarks.ppo.other_base WORLD FOLDER

Shape, seed and corpus are those of the world's lineage `coast`, so that a reward model trained from it differs from its twin
trained from `coast` only in tokenisation and template.
"""

import argparse
import json
from pathlib import Path

from core.disk import atomic_folder, is_complete
from microworld.config import PolicyConfig
from microworld.policy import train_policy
from microworld.tokenizer import train_tokenizer

LINEAGE = "coast"
VOCABULARY = 512
"""Vocabulary size; the world's own tokenizer has 1,024 entries."""

# No BOS, roles as words, and EOS after every turn: the world's own template differs in all three.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ':\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


def other_tokenizer_base(world: Path, folder: Path, seed: int) -> Path:
    """Trains the base on the corpus of `world` and returns its folder, `folder`/policy; an existing one is kept."""
    if not is_complete(folder / "world"):
        with atomic_folder(folder / "world") as temporary:
            corpus = (world / "corpus" / f"{LINEAGE}.jsonl").read_text(encoding="utf-8")
            (temporary / "corpus").mkdir()
            (temporary / "corpus" / f"{LINEAGE}.jsonl").write_text(corpus, encoding="utf-8")
            texts = [text for line in corpus.splitlines()[:20_000] for text in json.loads(line).values()]
            tokenizer = train_tokenizer(texts, vocab_size=VOCABULARY)
            tokenizer.chat_template = TEMPLATE
            tokenizer.save_pretrained(temporary / "tokenizer")
    return train_policy(folder / "world", LINEAGE, PolicyConfig(seed=seed), folder / "policy", lambda _: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    seed = json.loads((arguments.world / "world.json").read_text(encoding="utf-8"))["seed"]
    print(other_tokenizer_base(arguments.world, arguments.folder, seed))


if __name__ == "__main__":
    main()
