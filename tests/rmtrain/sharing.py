"""What processes that share a cache do for `test_store`: `python -m tests.rmtrain.sharing FOLDER [killed]`, or under torchrun.

Each prepares the pairs of `FOLDER/pairs.jsonl` and their tokens, and writes to `rank-R.json` what it made itself, what it waited for,
and what it found. With `killed` it dies in the middle of the tokens.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import core.runs.cache
import rmtrain.rows
import rmtrain.token_store
from core.process.exit import exit_without_teardown
from core.process.world import join_world
from rmtrain.config import Overlong, PreferenceDataConfig
from rmtrain.data import load_preferences
from rmtrain.tokens import tokenize
from tests.fakes import word_tokenizer


def main() -> None:
    folder, killed = Path(sys.argv[1]), "killed" in sys.argv
    core.runs.cache._PATIENCE_S = 0.0  # pyright: ignore[reportPrivateUsage]
    world = join_world()
    made, said = list[str](), list[str]()
    read_rows, encode = rmtrain.rows.read_rows, rmtrain.token_store.encode

    def slow_rows(*args: Any, **options: Any) -> Any:
        made.append("pairs")
        time.sleep(0.5)
        return read_rows(*args, **options)

    def slow_encode(*args: Any, **options: Any) -> Any:
        made.append("tokens")
        time.sleep(0.5)
        if killed and made.count("tokens") == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*args, **options)

    rmtrain.rows.read_rows, rmtrain.token_store.encode = slow_rows, slow_encode
    rmtrain.token_store.CHUNK = 8
    world.barrier()  # both begin at once
    config = PreferenceDataConfig(paths=[str(folder / "pairs.jsonl")], cache=str(folder / "cache"))
    data = load_preferences(config, seed=0, say=said.append)
    found = tokenize(data.training, word_tokenizer(), max_length=60, overlong=Overlong.cut)
    ids = [(pair.chosen.tolist(), pair.rejected.tolist()) for pair in found.pairs]
    report = {"made": sorted(set(made)), "said": [line for line in said if "waiting" in line], "ids": ids}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(report))
    world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
