"""Token rows of prompts with their completions: order, cuts, and rewards back where they belong."""

from core.data.token_rows import token_rows
from core.records import CompletionScore, user
from tests.fakes import word_tokenizer

PROMPTS = [user("name a fruit"), user("name"), user("a fruit")]
COMPLETIONS = [["plum", "a plum"], [], ["lamp"]]


def test_rows_stand_prompt_by_prompt_and_are_cut_at_their_end() -> None:
    texts = token_rows(word_tokenizer(), PROMPTS, COMPLETIONS, 8)
    # <s> [user] name a fruit [assistant] plum </s>, and the same with one word more, which is nine tokens
    assert texts.rows == ([0, 4, 6, 7, 8, 5, 9, 1], [0, 4, 6, 7, 8, 5, 7, 9], [0, 4, 7, 8, 5, 10, 1])
    assert texts.truncated == (False, True, False)
    assert texts.places == [range(0, 2), range(2, 3)]


def test_rewards_go_back_to_their_prompts_with_what_was_read() -> None:
    texts = token_rows(word_tokenizer(), PROMPTS, COMPLETIONS, 8)
    assert texts.completion_scores([0.5, -1.0, 2.0]) == [
        [CompletionScore(reward=0.5, num_tokens=8, truncated=False), CompletionScore(reward=-1.0, num_tokens=8, truncated=True)],
        [],
        [CompletionScore(reward=2.0, num_tokens=7, truncated=False)],
    ]
