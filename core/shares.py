"""Shares: which metrics are some, how they are shown, and how far one found among a few draws may be from the true one."""

import math
import re

Z95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution: how many standard errors a 95% interval reaches to either side."""


_SHARES = re.compile(
    r"((rewardbench[12]|downstream)(_se)?|halves)/.+|on_policy/(rm_accuracy|accuracy|accuracy_std|unfinished|truncated)"
    r"|(held_out|pairs)/(?!margin$|calibration_error$|num_).+|bon(_se)?/.+(?<!/gamma)(?<!/variance)|train/accuracy"
)


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, such as an accuracy.

    >>> [is_share(name) for name in ("rewardbench2/overall", "bon/average", "held_out/margin", "rm_score", "kl")]
    [True, True, False, False, False]
    """
    return _SHARES.fullmatch(metric) is not None


def in_points(metric: str, value: float, otherwise: str = ".4g") -> str:
    """The value of a metric for a terminal: of a share in points of 100 with one digit, of any other in the format `otherwise`.

    >>> in_points("downstream/average", 0.6125), in_points("rm_score", -1.25)
    ('61.3', '-1.25')
    """
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:{otherwise}}"


def with_error(share: float, error: float | None, mark: str = "+-") -> str:
    """A share in points with its standard error, where that is known; see `standard_error` for that of a share of 0 or 1.

    >>> with_error(0.8, 0.04, "±"), with_error(1.0, standard_error(1.0, 8)), with_error(0.5, None)
    ('80.0 ± 4.0', '100.0 +- 8.3', '50.0')
    """
    return f"{100 * share:.1f}" + ("" if error is None else f" {mark} {100 * error:.1f}")


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` draws (Wilson 1927)."""
    middle = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2)) / (1 + Z95**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def standard_error(share: float, count: int) -> float:
    """The standard error of a share of `count` draws, never 0: see `unanimous_error`.

    >>> round(standard_error(0.8, 100), 6), round(standard_error(1.0, 8), 3)
    (0.04, 0.083)
    """
    return unanimous_error(count) if share in (0, 1) else math.sqrt(share * (1 - share) / count)


def unanimous_error(count: int) -> float:
    """The standard error of a share of 0 or 1 of `count` draws, of which their spread, 0, says nothing: that of Wilson's interval.

    Of eight draws that are all right the interval is 68% to 100%, which is as wide as that of a normal error of 8.3 points.
    """
    low, high = wilson(1.0, count)
    return (high - low) / (2 * Z95)
