"""The final number of a text, in the notations of people, models and LaTeX, and what is not one."""

# ruff: noqa: RUF001 - look-alikes of ASCII characters are what is tested

import time
from fractions import Fraction

import pytest

from evalhooks.tasks.final_number import final_number

READ = [
    # The last number of a text.
    ("So she sells 9 eggs for 2 dollars each and makes 18.", 18),
    ("18", 18),
    ("18 eggs, 20%", 20),
    ("5, not 6", 6),
    (".5", Fraction(1, 2)),
    ("It costs $.50", Fraction(1, 2)),
    ("18.00", 18),
    ("a total of 1.25 litres.", Fraction(5, 4)),
    ("+18", 18),
    ("1.8e1", 18),
    # The mark of GSM8K counts before all else, unless it heads a section.
    ("9 * 2 = 18\n#### 18\nCheck: 18 - 3 = 15", 18),
    (r"\boxed{20} #### 18", 18),
    (r"#### 18 or \boxed{20}", 18),
    ("#### 15\nNo, that is wrong.\n#### 18", 18),
    ("####18", 18),
    ("####\n18\n\nThat took 3 steps.", 18),
    ("#### **18**", 18),
    ("#### $1,234.00 for 2", 1234),
    ("#### The answer is 18 for 2 days", 18),
    ("#### Final answer: 18 (in 3 steps)", 18),
    ("#### Answer\n\n18\n\nI used 2 steps.", 18),
    ("#### 9 * 2 = 18", 18),
    ("#### 18 = 9 * 2", 18),
    ("#### x = 18", 18),
    ("#### - 5", -5),
    ("#### 10 500", 10500),
    ("#### 2. Costs\n3 + 15 = 18", 18),
    ("#### Step 2\n9 * 2 = 18.\n#### Step 3\nDone.", 3),
    ("#### I do not know; 3 or 4", 4),
    # Then the last box.
    (r"\boxed{18} since 9 * 2 holds", 18),
    (r"\boxed{17}, no, \boxed{18}, with 2 eggs", 18),
    (r"\boxed{\$18} in 2 days", 18),
    (r"\boxed{18\text{ dollars}} in 2 days", 18),
    (r"\boxed{\text{18 eggs}} in 2 days", 18),
    (r"\boxed{x = 18} in 2 days", 18),
    (r"\boxed{\textbf{18}} in 2 days", 18),
    (r"\boxed 18", 18),
    (r"\boxed{18", 18),
    (r"\boxed{\text{eighteen}}, so 18", 18),
    (r"\fbox{18} in 2", 2),
    (r"\boxed{- 5} in 2", -5),
    # Separators stand between groups of three.
    (r"\boxed{9{,}500}", 9500),
    (r"$10\,000$", 10000),
    (r"10,\!000", 10000),
    ("1,450,000", 1450000),
    ("10\u2009000", 10000),
    ("10\u202f000", 10000),
    ("10\u00a0000", 10000),
    ("10 000", 10000),
    ("10_000", 10000),
    ("10'000", 10000),
    ("10\u2019000", 10000),
    ("12,345.50", Fraction(24691, 2)),
    ("3,4", 4),
    ("3,45", 45),
    ("12,3456", 3456),
    ("1234,567", 567),
    ("1, 200", 200),
    ("12 500 ml bottles", 500),
    ("packs of 10 100-gram bars", 100),
    # Signs.
    ("−5", -5),
    ("–5", -5),
    ("－５", -5),
    ("-$5", -5),
    ("$-5", -5),
    ("−US$5", -5),
    (r"$-5$", -5),
    ("x=-5", -5),
    ("答案是-5", -5),
    ("(-5)", -5),
    ("3-4 days", 4),
    ("3–4 days", 4),
    ("10 - 4", 4),
    ("$18-$20", 20),
    ("COVID-19", 19),
    # Currencies.
    ("not 18 but US$20", 20),
    ("US$18", 18),
    ("HK$18", 18),
    (r"is \$18.", 18),
    ("is$18", 18),
    ("€18", 18),
    ("18€", 18),
    ("£1,000", 1000),
    ("USD18", 18),
    ("USD 18", 18),
    ("Rs.18", 18),
    ("￥18", 18),
    # Markdown and LaTeX around it.
    ("__18__", 18),
    ("_18_", 18),
    ("is __$18__ a day", 18),
    ("**18**", 18),
    ("***18***", 18),
    ("`18`", 18),
    ("~~17~~ 18", 18),
    ("[18](https://example.org)", 18),
    (r"\(18\)", 18),
    (r"9\times18", 18),
    (r"\mathbf{18}", 18),
    # Chinese and full-width text.
    ("答案是18。", 18),
    ("一共有1,000元。", 1000),
    ("所以答案为：18个", 18),
    ("３，４", 4),
    ("１，０００", 1000),
    ("１８．５", Fraction(37, 2)),
    ("\u200b18\u200b", 18),
    # Fractions.
    ("1/2", Fraction(1, 2)),
    ("36/2", 18),
    (r"\frac{36}{2}", 18),
    (r"\boxed{\dfrac{1}{2}}", Fraction(1, 2)),
    (r"-\frac12", Fraction(-1, 2)),
    ("½", Fraction(1, 2)),
    ("1½", Fraction(3, 2)),
    ("1 1/2", Fraction(3, 2)),
    (r"2\frac{1}{4}", Fraction(9, 4)),
    ("12/60=1/5", Fraction(1, 5)),
    ("12/25/2020", 2020),
    ("$18/hour", 18),
    # What belongs to words is no number.
    ("18 cm^2", 18),
    ("18 cm²", 18),
    (r"18\text{ cm}^{2}", 18),
    ("18, by x_1", 18),
    (r"18, by x_{12}", 18),
    ("18 of H2O", 18),
    ("18 in version v1.2", 18),
    ("18th", 18),
    ("in release 1.2.3", Fraction(6, 5)),
]


@pytest.mark.parametrize(("text", "number"), READ)
def test_a_number_is_read_however_it_is_written(text: str, number: int | Fraction) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize("text", ["", "eighteen", "...", "-", "$", "H2O", "####", r"\boxed{}", "1/0", "十八", "9" * 6000, "²", "#### ."])
def test_a_text_without_a_readable_number_has_none(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize("text", ["1,", "111 ", "#### ", r"\boxed{", "1.", "1/", "-", "$", "_", "#### answer ", r"\frac{1}{2}", "1e9"])
def test_a_text_of_repetitions_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    final_number(text * 5_000)
    assert time.process_time() - started < 2  # a quarter of a second; what is quadratic takes much longer
