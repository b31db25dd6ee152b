"""Which parts of a benchmark are said to have few rows."""

from core.records import BenchmarkRow
from launch.jobs.samples import of_benchmark


def test_the_interval_that_few_rows_leave_is_that_of_accuracies_and_ties_has_none() -> None:
    sizes = {"Math": 20, "Ties": 4}
    rows = [
        BenchmarkRow(id=f"{subset}:{n}", prompt="p", completions=("a", "b"), num_correct=1, subset=subset)
        for subset, size in sizes.items()
        for n in range(size)
    ]
    found = of_benchmark(rows, "RewardBench 2", limit=0.5, keys=("limit", "rows"))
    assert found is not None
    # 20 rows of Math: half of Wilson's interval is 20 points; 4 rows would have 35.
    assert "few rows (20 in Math, 4 in Ties), so that small differences are noise: 95% interval of up to +-20 points" in found.text
