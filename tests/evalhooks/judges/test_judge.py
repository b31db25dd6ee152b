"""Judges as Scorers: what their verdicts are worth in both benchmarks, and what is said where there is none."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from core.progress import NoProgress
from core.records import BenchmarkRow, Message, ScoredRow, Scorer, user
from evalhooks.judges.cache import AnswerCache, CachedChat
from evalhooks.judges.judge import Judge, RankingJudge, RatingJudge, shown_order
from evalhooks.judges.parsers import Parser
from evalhooks.judges.prompts import ties_rating
from evalhooks.rewardbench import v1, v2
from tests.evalhooks.judges.fakes import FunctionChat, knows_best, shown_answers, talks

BEST_OF_4 = [
    BenchmarkRow(
        id=f"{subset}-{i}",
        prompt=f"{subset}, number {i}?",
        completions=("This is RIGHT.", "This is wrong.", "So is this.", "And this."),
        num_correct=1,
        subset=subset,
    )
    for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    for i in range(3)
]
TIES = [
    BenchmarkRow(id="ref:0", prompt="Two plus two?", completions=("RIGHT: 4", "5"), num_correct=1, subset="Ties"),
    BenchmarkRow(id="tied:0", prompt="A fruit?", completions=("RIGHT: fig", "RIGHT: pear", "saw"), num_correct=2, subset="Ties"),
]


class Steps(NoProgress):
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.said: list[str | int] = []

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        self.said += [description, total]

    def advance(self, n: int = 1) -> None:
        self.said.append(n)

    def finish(self) -> None:
        self.said.append("finish")


def judge_with(tmp_path: Path, reply: Callable[[str], str], *, rankings: bool) -> Judge:
    chat = CachedChat(FunctionChat(reply), AnswerCache(tmp_path / "judges.sqlite"), {})
    return Judge(rows=RankingJudge(chat) if rankings else RatingJudge(chat), ties=RatingJudge(chat, prompt=ties_rating), chat=chat)


def scored(rows: Sequence[BenchmarkRow], scorer: Scorer) -> list[ScoredRow]:
    scores = scorer.score([user(row.prompt) for row in rows], [row.completions for row in rows])
    return [
        ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=tuple(values))
        for row, values in zip(rows, scores, strict=True)
    ]


def scores_of(judge: Judge) -> v2.BenchmarkScores:
    return v2.scores([*scored(BEST_OF_4, judge.rows), *scored(TIES, judge.ties)])


@pytest.mark.parametrize("rankings", [False, True])
def test_a_perfect_judge_earns_every_point_of_rewardbench_2(tmp_path: Path, rankings: bool) -> None:
    judge = judge_with(tmp_path, knows_best, rankings=rankings)
    result = scores_of(judge)
    # Ties: ratings 10 and 2, so a margin of 8 over a spread of 0: 0.3 + 0.3 + 0.2 + 0.2 + 0.01 tanh(inf).
    assert result.per_subset == dict.fromkeys(v2.DOMAINS.values(), 1.0) | {"Ties": pytest.approx(1.01, abs=1e-12)}
    assert result.refusals == ()
    assert judge.num_judged == (15 if rankings else 60) + 5
    assert (judge.num_unparsable, judge.unparsable_share) == (0, 0.0)
    assert (judge.num_asked, judge.num_cached) == (judge.num_judged, 0)


@pytest.mark.parametrize("rankings", [False, True])
def test_a_judge_without_verdicts_earns_chance_and_the_share_says_so(tmp_path: Path, rankings: bool) -> None:
    judge = judge_with(tmp_path, talks, rankings=rankings)
    result = scores_of(judge)
    # All -1 in Ties: no margin is above 0, none exceeds its spread, and 0/0 adds nothing.
    assert result.per_subset == dict.fromkeys(v2.DOMAINS.values(), 0.25) | {"Ties": 0.0}
    assert result.refusals == ()
    assert scored(TIES, judge.ties)[1].scores == (-1.0, -1.0, -1.0)
    assert judge.rows.unparsable_share == judge.ties.unparsable_share == judge.unparsable_share == 1.0
    assert judge.num_unparsable == judge.num_judged


def test_an_unparsable_rating_loses_to_the_lowest_and_can_never_win() -> None:
    judge = RatingJudge(FunctionChat(lambda question: "Hm." if "RIGHT" in question else "1"))
    [row] = scored(BEST_OF_4[:1], judge)
    assert row.scores == (-1.0, 1.0, 1.0, 1.0)
    assert v2.row_credit(row) == 0.0
    assert (judge.num_judged, judge.num_unparsable, judge.unparsable_share) == (4, 1, 0.25)


def test_an_unparsable_rating_leaves_a_pair_of_rewardbench_1_undecided() -> None:
    judge = RatingJudge(FunctionChat(lambda question: "7" if "wrong" in question else "Hm."), unparsable=math.nan)
    [[chosen, rejected]] = judge.score([user("a")], [["RIGHT", "wrong"]])
    assert math.isnan(chosen)
    assert rejected == 7.0
    pair = ScoredRow(id="1", subset="hep-go", num_correct=1, scores=(chosen, rejected))
    assert v1.pair_credit(pair, generative=True) == 0.5


def test_ratings_go_back_to_their_completions_and_are_asked_for_in_one_call() -> None:
    marks = {"a": "3", "b": "8/10", "c": "Rating: 9.5", "d": "?", "e": "1"}
    chat = FunctionChat(lambda question: marks[shown_answers(question)[""]])
    judge = RatingJudge(chat)
    assert judge.score([user("p"), user("q"), user("r")], [["a", "b", "d"], [], ["c", "e"]]) == [[3.0, 8.0, -1.0], [], [9.5, 1.0]]
    assert [len(questions) for questions in chat.calls] == [5]
    assert (judge.num_judged, judge.num_unparsable, judge.unparsable_share) == (5, 1, 0.2)
    judge.score([user("p")], [["a"]])
    assert (judge.num_judged, judge.num_unparsable) == (6, 1)


@pytest.mark.parametrize(("parser", "expected"), [(Parser.strict, 8.0), (Parser.official, 10.0)])
def test_the_parser_of_ratings_is_chosen(parser: Parser, expected: float) -> None:
    assert RatingJudge(FunctionChat(lambda _: "8/10"), parser=parser).score([user("p")], [["a"]]) == [[expected]]


def test_the_parser_of_rankings_is_chosen() -> None:
    chat = FunctionChat(lambda _: "[[B]] beats [[A]]")
    assert RankingJudge(chat).score([user("p")], [["a", "b"]]) == [[0.0, 0.0]]
    [official] = RankingJudge(chat, parser=Parser.official).score([user("p")], [["a", "b"]])
    assert official[shown_order(user("p"), ["a", "b"], seed=0)[0]] == 1.0


def test_the_winner_of_a_ranking_scores_one_wherever_it_was_shown_and_given() -> None:
    judge = RankingJudge(FunctionChat(knows_best))
    prompts = [user(f"prompt {i}") for i in range(40)]
    completions = [[f"wrong {j}" if j != i % 5 else "RIGHT" for j in range(5)] for i in range(40)]
    assert judge.score(prompts, completions) == [[float(j == i % 5) for j in range(5)] for i in range(40)]
    assert (judge.num_judged, judge.num_unparsable) == (40, 0)


def test_rankings_are_asked_for_in_one_call_and_what_needs_no_judge_is_not_asked() -> None:
    chat = FunctionChat(knows_best)
    judge = RankingJudge(chat)
    scores = judge.score([user("p"), user("q"), user("r"), user("s")], [["x", "RIGHT"], ["alone"], [], ["RIGHT", "x"]])
    assert scores == [[0.0, 1.0], [0.0], [], [1.0, 0.0]]
    assert [len(questions) for questions in chat.calls] == [2]
    assert judge.num_judged == 2


def test_equal_answers_have_one_winner() -> None:
    assert sorted(RankingJudge(FunctionChat(lambda _: "[[C]]")).score([user("p")], [["x", "x", "x"]])[0]) == [0.0, 0.0, 1.0]


def test_too_many_answers_are_refused_before_anything_is_asked() -> None:
    chat = FunctionChat(talks)
    with pytest.raises(ValueError, match="2 to 26 answers, not 27"):
        RankingJudge(chat).score([user("p"), user("q")], [["a", "b"], [str(i) for i in range(27)]])
    assert chat.calls == []


def test_each_place_in_the_order_shown_is_equally_likely() -> None:
    rows = [[f"correct {i}", *(f"wrong {i} {j}" for j in range(3))] for i in range(2000)]
    orders = [shown_order(user("p"), row, seed=0) for row in rows]
    # The place of the first completion: 500 each, with a standard deviation of sqrt(2000 * 0.25 * 0.75) = 19.
    assert all(abs(count - 500) < 80 for count in Counter(order.index(0) for order in orders).values())
    # And of all 24 orders: 83 each, give or take 9.
    counts = Counter(map(tuple, orders))
    assert len(counts) == 24
    assert all(abs(count - 83) < 40 for count in counts.values())


def test_a_row_is_shown_alike_in_any_batch_and_in_any_order() -> None:
    chat = FunctionChat(talks)
    judge = RankingJudge(chat)
    prompts, rows = [user(f"prompt {i}") for i in range(9)], [[f"{j} of {i}" for j in range(4)] for i in range(9)]
    judge.score(prompts, rows)
    judge.score(prompts[4:5], rows[4:5])
    judge.score(prompts[::-1], [row[::-1] for row in rows[::-1]])
    together, alone, reversed_ = chat.calls
    assert alone == [together[4]]
    assert reversed_ == together[::-1]


def test_the_order_shown_is_drawn_from_seed_prompt_and_completions() -> None:
    answers = ["a", "b", "c", "d"]
    orders = [shown_order(user("p"), answers, seed=seed) for seed in range(30)]
    assert len({tuple(order) for order in orders}) > 10
    assert len({tuple(shown_order(user(str(i)), answers, seed=0)) for i in range(30)}) > 10
    assert len({tuple(shown_order((Message(role=str(i), content="p"),), answers, seed=0)) for i in range(30)}) > 10
    asked = [FunctionChat(talks), FunctionChat(talks)]
    for seed, chat in enumerate(asked):
        RankingJudge(chat, seed=seed).score([user(str(i)) for i in range(9)], [answers] * 9)
    assert asked[0].calls != asked[1].calls


@pytest.mark.parametrize("kind", [RatingJudge, RankingJudge])
def test_progress_follows_the_answers(kind: type[RatingJudge] | type[RankingJudge]) -> None:
    steps = Steps()
    judge = kind(FunctionChat(knows_best), progress=steps)
    judge.score([user("p")], [["RIGHT", "x"]])
    assert steps.said == (["judging", 2, 1, 1, "finish"] if kind is RatingJudge else ["judging", 1, 1, "finish"])
    judge.score([], [])
    assert steps.said[-1] == "finish"
    assert steps.said.count("judging") == 1


def test_progress_ends_with_a_failure_and_nothing_is_counted() -> None:
    def refuses(question: str) -> str:
        raise ValueError("the endpoint is gone.")

    steps = Steps()
    judge = RatingJudge(FunctionChat(refuses), progress=steps)
    with pytest.raises(ValueError, match="the endpoint is gone"):
        judge.score([user("p")], [["a"]])
    assert steps.said == ["judging", 1, "finish"]
    assert (judge.num_judged, judge.unparsable_share) == (0, 0.0)
