"""What each parser makes of the texts that judges write."""

import pytest

from evalhooks.judges.parsers import Parser, parse_ranking, parse_rating


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("7", 7.0, 7.0),
        ("Good.\n\n7\n", 7.0, 7.0),
        ("Good.\n  10  \n\n", 10.0, 10.0),
        # The official pattern wants a word boundary and a whole number at the very end of the stripped text.
        ("8/10", 8.0, 10.0),
        ("8.5", 8.5, 5.0),
        ("It is 7.", None, None),
        ("It is 7", None, 7.0),
        ("7\nIt is good.", None, None),
        ("Rating: 7\nAll in all, 3", None, 3.0),
        ("0", None, None),
        ("11", None, None),
        ("100", None, None),
        ("-7", None, 7.0),
        ("1.0", 1.0, None),  # 0 is no rating, and "1" does not end the text
        ("Score 7", None, 7.0),
        ("7 8", None, 8.0),
        ("", None, None),
        (" \n ", None, None),
        ("no number", None, None),
        # What strict takes off a line.
        ("Rating: 8", 8.0, 8.0),
        ("score:8.", 8.0, None),
        ("RATING : 8", 8.0, 8.0),
        ("**Rating:** 8/10", 8.0, 10.0),
        ("**Rating**: 8", 8.0, 8.0),
        ("**Score: 8.5/10**", 8.5, None),
        ("Rating: [[8]]", 8.0, None),
        ("[[8.25]]", 8.25, None),
        ("Rating: [[ 9/10 ]].", 9.0, None),
        ("[[9]]/10", 9.0, 10.0),
        ("**10**", 10.0, None),
        ("**8**.", 8.0, None),
        ("8.5.", 8.5, None),
        ("8 / 10.", 8.0, None),
        ("10/10", 10.0, 10.0),
        ("10.0", 10.0, None),
        ("1", 1.0, 1.0),
        ("9.99", 9.99, None),
        # What it does not.
        ("10.5", None, 5.0),
        ("0.5", None, 5.0),
        ("8/5", None, 5.0),
        ("8/100", None, None),
        ("8,5", None, 5.0),
        ("I rate it 8/10", None, 10.0),
        ("Rating: 8 of 10", None, 10.0),
        ("Rating: 8 or 9", None, 9.0),
        ("[8]", None, None),
        ("[[8", None, 8.0),
        ("08", None, None),
        ("+8", None, 8.0),
        ("8e0", None, None),
        ("Grading: 8", None, 8.0),
        ("8\u00bd", None, None),
        ("\u0668", None, None),  # an eight in other digits
    ],
)
def test_ratings(text: str, strict: float | None, official: float | None) -> None:
    assert parse_rating(text) == strict
    assert parse_rating(text, Parser.strict) == strict
    assert parse_rating(text, Parser.official) == official


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("[[A]]", 0, 0),
        ("C is best.\n[[C]]", 2, 2),
        ("[[D]] it is, as I said: [[D]].", 3, 3),
        ("**[[B]]**", 1, 1),
        # Official: A before B before C, wherever they stand.
        ("[[C]] beats [[B]]", None, 1),
        ("Not [[A]]. My verdict is [[D]]", None, 0),
        # E is not shown: four answers have the letters A to D.
        ("[[E]]", None, None),
        ("[[E]] [[B]]", None, 1),
        ("[[Z]]", None, None),
        ("[[a]]", None, None),
        ("[B]", None, None),
        ("[[ B ]]", None, None),
        ("[[AB]]", None, None),
        ("Answer B", None, None),
        ("", None, None),
    ],
)
def test_rankings_of_four(text: str, strict: int | None, official: int | None) -> None:
    assert parse_ranking(text, 4) == strict
    assert parse_ranking(text, 4, Parser.strict) == strict
    assert parse_ranking(text, 4, Parser.official) == official


@pytest.mark.parametrize("parser", Parser)
def test_only_letters_that_were_shown_are_verdicts(parser: Parser) -> None:
    assert parse_ranking("[[C]]", 2, parser) is None
    assert parse_ranking("[[C]]", 3, parser) == 2
    assert parse_ranking("[[Z]]", 26, parser) == 25
