"""Training throughput."""

import time
from collections.abc import Callable

from core.process.hardware import peak_flops
from rmtrain.metrics import PairSums
from rmtrain.session import RMSession


class Meter:
    """Measures throughput from one row of the training log to the next; `pause` excludes time spent on hooks and saving."""

    def __init__(self, session: RMSession, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # 2 forward, 2 backward for the gradients of the inputs, and 2 for those of the weights unless they are frozen.
        frozen = session.config.lora.rank > 0
        self._flops_per_token = (4 if frozen else 6) * session.num_weights
        self._peak = peak_flops(session.world.device)
        self._processes = session.world.size
        self._started = clock()

    def metrics(self, sums: PairSums) -> dict[str, float]:
        """Rates since the last call; `sums` cover the pairs trained on since then.

        `tokens_per_second` and `pairs_per_second` count all tokens of both sides; `tflops` is the work on the unique ones, 6 per
        weight and token (4 where the weights themselves are frozen), without embeddings and attention (Kaplan et al. 2020,
        section 2.1); `mfu` is its share of the devices' peak, if that is known (Chowdhery et al. 2022, appendix B).
        """
        seconds = max(self._clock() - self._started, 1e-9)
        flops = self._flops_per_token * sums.num_unique_tokens.item() / seconds
        measured = {
            "tokens_per_second": sums.num_tokens.item() / seconds,
            "pairs_per_second": sums.num_pairs.item() / seconds,
            "tflops": flops / 1e12,
        }
        self._started += seconds
        return measured | ({"mfu": flops / (self._peak * self._processes)} if self._peak else {})

    def tokens_per_second(self, sums: PairSums) -> float:
        """The tokens of `sums`, trained on since the last call of `metrics`, per second."""
        return sums.num_tokens.item() / max(self._clock() - self._started, 1e-9)

    def pause(self, since: float) -> None:
        """Excludes the time since `since`, a reading of the clock."""
        self._started += self._clock() - since
