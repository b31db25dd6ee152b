"""The tables of docs/scale.md are those that the formulas give."""

from benchmarks.scale import PAGE, tables, written

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_up_to_date() -> None:
    assert written(TEXT) == TEXT, "write them anew: python -m benchmarks.scale"


def test_every_table_stands_on_the_page() -> None:
    assert all(f"<!-- table {name} -->\n{table}\n<!-- end -->" in TEXT for name, table in tables().items())


def test_a_table_that_is_out_of_date_is_seen() -> None:
    assert written(TEXT.replace("| yes |", "| no |")) == TEXT
