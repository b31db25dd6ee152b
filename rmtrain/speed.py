"""How fast training goes."""

import time
from collections.abc import Callable, Mapping

from core.process.hardware import peak_flops
from rmtrain.session import RMSession


class Meter:
    """Measures between rows of the training log; time that training stands still, for hooks and saving, is left out by `pause`."""

    def __init__(self, session: RMSession, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Forward 2, backward 2 for the inputs' gradients and 2 for those of the weights that are trained.
        frozen = session.config.lora.rank > 0
        self._flops_per_token = (4 if frozen else 6) * session.num_weights
        self._peak = peak_flops(session.world.device)
        self._processes = session.world.size
        self._started = clock()

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Rates since the last call; `sums` are those of the steps since then.

        `tokens_per_second` and `pairs_per_second` count all tokens of both sides; `tflops` the work on the unique ones, 6 per
        weight and token (4 where the weights themselves are frozen), without embeddings and attention (Kaplan et al. 2020,
        section 2.1); `mfu` is its share of the devices' peak, where that is known (Chowdhery et al. 2022, appendix B).
        """
        seconds = max(self._clock() - self._started, 1e-9)
        flops = self._flops_per_token * sums["unique"] / seconds
        measured = {"tokens_per_second": sums["tokens"] / seconds, "pairs_per_second": sums["pairs"] / seconds, "tflops": flops / 1e12}
        self._started += seconds
        return measured | ({"mfu": flops / (self._peak * self._processes)} if self._peak else {})

    def pause(self, since: float) -> None:
        """Leaves out the time since `since`, a reading of the clock."""
        self._started += self._clock() - since
