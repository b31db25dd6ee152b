"""Judges: Scorers that ask a language model.

Source: RewardBench 2 (Malik et al., 2025), section 3 and appendix G. Their scores enter `evalhooks.rewardbench.v2` like
those of any reward model: an unparsable rating loses to every rating, and n unparsable ones earn the credit of chance, 1/n.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.progress import NoProgress, Progress
from core.records import Dialogue
from evalhooks.judges import prompts as wording
from evalhooks.judges.cache import CachedChat
from evalhooks.judges.chat import Chat, Refusal, asking
from evalhooks.judges.parsers import Parser, parse_ranking, parse_rating


class RatingJudge:
    """Scores each completion on its own, by the rating from 1 to 10 that a language model gives it.

    `prompt` words the question (`prompts.rating` or `prompts.ties_rating`). A judge's answer without a rating scores
    `unparsable`: -1 loses to every rating; NaN makes a RewardBench 1 pair undecided, as its rules for judges require.
    `num_judged` and `num_unparsable` count completions, over all calls.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        prompt: Callable[[Dialogue, str], Dialogue] = wording.rating,
        parser: Parser = Parser.strict,
        unparsable: float = -1.0,
        progress: Progress | None = None,
    ) -> None:
        self.chat, self.parser, self.unparsable = chat, parser, unparsable
        self._prompt, self._progress = prompt, progress or NoProgress()
        self.num_judged = 0
        self.num_unparsable = 0

    @property
    def unparsable_share(self) -> float:
        """Share of the answers of the judge that held no rating; 0 before the first."""
        return self.num_unparsable / max(self.num_judged, 1)

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of ratings per prompt, in the order of its completions; a single chat call asks for all of them."""
        scores = [[self.unparsable] * len(answers) for answers in completions]
        places = [(row, place) for row, answers in enumerate(completions) for place in range(len(answers))]
        questions = [self._prompt(prompt, answer) for prompt, answers in zip(prompts, completions, strict=True) for answer in answers]
        ratings = [parse_rating(text, self.parser) for text in _texts(self.chat, questions, self._progress)]
        for (row, place), rating in zip(places, ratings, strict=True):
            if rating is not None:
                scores[row][place] = rating
        self.num_judged += len(ratings)
        self.num_unparsable += ratings.count(None)
        return scores


class RankingJudge:
    """Asks a language model which completion of a prompt is the best: that one scores 1, the others 0.

    All completions (2 to 26) are shown at once, in an order derived from `seed`, the prompt and the completions, so neither
    the other rows nor the order of rows or completions can change a verdict. If the answer has no verdict, all score 0. A
    single completion is not judged and scores 0. `num_judged` and `num_unparsable` count prompts.
    """

    def __init__(self, chat: Chat, *, parser: Parser = Parser.strict, seed: int = 0, progress: Progress | None = None) -> None:
        self.chat, self.parser, self.seed = chat, parser, seed
        self._progress = progress or NoProgress()
        self.num_judged = 0
        self.num_unparsable = 0

    @property
    def unparsable_share(self) -> float:
        """Share of the answers of the judge that held no verdict; 0 before the first."""
        return self.num_unparsable / max(self.num_judged, 1)

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list per prompt with at most a single 1, the rest 0; a single chat call asks about all prompts.

        Raises `ValueError` for a prompt with more than 26 completions, before anything is asked.
        """
        scores = [[0.0] * len(answers) for answers in completions]
        orders = [shown_order(prompt, answers, seed=self.seed) for prompt, answers in zip(prompts, completions, strict=True)]
        rows = [row for row, order in enumerate(orders) if len(order) > 1]
        questions = [wording.ranking(prompts[row], [completions[row][place] for place in orders[row]]) for row in rows]
        texts = _texts(self.chat, questions, self._progress)
        winners = [parse_ranking(text, len(orders[row]), self.parser) for row, text in zip(rows, texts, strict=True)]
        for row, winner in zip(rows, winners, strict=True):
            if winner is not None:
                scores[row][orders[row][winner]] = 1.0
        self.num_judged += len(winners)
        self.num_unparsable += winners.count(None)
        return scores


def shown_order(prompt: Dialogue, completions: Sequence[str], *, seed: int) -> list[int]:
    """Indices of the completions in the order shown: sorted by a hash of seed, prompt and completion, so any order is equally likely."""
    turns = [(turn.role, turn.content) for turn in prompt]

    def sort_key(place: int) -> bytes:
        return hashlib.sha256(json.dumps([seed, turns, completions[place]]).encode()).digest()

    return sorted(range(len(completions)), key=sort_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A judge for a benchmark: `ties` scores the rows of the Ties domain, `rows` all others, both through one `chat`.

    Counts cover both, over all calls so far.
    """

    rows: RatingJudge | RankingJudge
    ties: RatingJudge
    chat: CachedChat

    @property
    def num_judged(self) -> int:
        """Number of verdicts requested: one per rated completion or ranked prompt."""
        return self.rows.num_judged + self.ties.num_judged

    @property
    def num_unparsable(self) -> int:
        """Number of unparsable verdicts, which earn the credit of chance or less."""
        return self.rows.num_unparsable + self.ties.num_unparsable

    @property
    def unparsable_share(self) -> float:
        """Share of unparsable verdicts; 0 before the first."""
        return self.num_unparsable / max(self.num_judged, 1)

    @property
    def num_asked(self) -> int:
        """Number of answers received from the model."""
        return self.chat.num_asked

    @property
    def num_cached(self) -> int:
        """Number of answers taken from the cache."""
        return self.chat.num_cached

    @property
    def num_refused(self) -> int:
        """Number of questions that the server refused; their verdicts count as unparsable."""
        return self.chat.num_refused

    @property
    def first_refusal(self) -> str:
        """The server's message for the first question it refused; empty if it refused none."""
        return self.chat.first_refusal


def _texts(chat: Chat, questions: Sequence[Dialogue], progress: Progress) -> list[str]:
    """The chat's answers in the order of the questions, reported to `progress`; a refusal becomes an answer without a verdict."""
    if not questions:
        return []
    texts: dict[int, str] = {}
    progress.start("judging", len(questions))
    try:
        with asking(chat, questions) as answers:
            for index, answer in answers:
                texts[index] = "" if isinstance(answer, Refusal) else answer
                progress.advance()
    finally:
        progress.finish()
    assert len(texts) == len(questions), f"the chat answered {len(texts)} of {len(questions)} questions"
    return [texts[index] for index in range(len(questions))]
