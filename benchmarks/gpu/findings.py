"""What a row of `benchmarks.gpu` yields."""

Finding = dict[str, float | int | str | bool]
"""One line of a row: what was measured, in words, and its figures."""
