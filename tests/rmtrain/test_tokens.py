"""Pairs become compact token ids; one that is too long is dropped, or cut at the beginning of its prompt alike on both sides."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import rmtrain.token_store
from core.data.chat import encode_answered
from core.progress import NoProgress
from core.records import Message, Preference, user
from rmtrain.config import Overlong
from rmtrain.tokens import TokenPairs, tokenize
from tests.fakes import word_tokenizer

# The ids of tests.fakes.WORDS: <s> 0, </s> 1, <unk> 2, [system] 3, [user] 4, [assistant] 5, name 6, a 7, fruit 8, plum 9, lamp 10.
FRUIT = Preference(prompt=user("name a fruit"), chosen="a plum", rejected="lamp", margin=1.5)
LONG = Preference(prompt=user("name name name a a a fruit fruit fruit"), chosen="a plum", rejected="lamp lamp lamp")
LONG_PROMPT = [0, 4, 6, 6, 6, 7, 7, 7, 8, 8, 8, 5]
"""12 tokens; chosen has 3 more (7, 9, 1), rejected 4 (10, 10, 10, 1)."""


def ids(found: TokenPairs) -> list[tuple[list[int], list[int]]]:
    return [(pair.chosen.tolist(), pair.rejected.tolist()) for pair in found.pairs]


def tokens(*pairs: Preference, max_length: int, overlong: Overlong, tokenizer: PreTrainedTokenizerBase | None = None) -> TokenPairs:
    return tokenize(pairs, tokenizer or word_tokenizer(), max_length=max_length, overlong=overlong)


def test_a_pair_is_the_ids_of_its_two_answered_dialogues() -> None:
    (pair,) = tokens(FRUIT, max_length=9, overlong=Overlong.drop).pairs
    assert (pair.chosen.tolist(), pair.rejected.tolist(), pair.margin) == ([0, 4, 6, 7, 8, 5, 7, 9, 1], [0, 4, 6, 7, 8, 5, 10, 1], 1.5)


def test_ids_take_four_bytes_each() -> None:
    (pair,) = tokens(FRUIT, max_length=9, overlong=Overlong.drop).pairs
    assert pair.chosen.dtype == pair.rejected.dtype == np.int32


def test_a_pair_without_a_margin_has_margin_zero() -> None:
    (pair,) = tokens(LONG, max_length=16, overlong=Overlong.drop).pairs
    assert pair.margin == 0.0


@pytest.mark.parametrize("overlong", list(Overlong))
def test_a_pair_of_just_the_limit_is_left_as_it_is(overlong: Overlong) -> None:
    found = tokens(LONG, max_length=16, overlong=overlong)
    assert ids(found) == [([*LONG_PROMPT, 7, 9, 1], [*LONG_PROMPT, 10, 10, 10, 1])]
    assert (found.num_dropped, found.num_cut) == (0, 0)


def test_a_pair_whose_longer_side_does_not_fit_is_dropped_and_counted() -> None:
    found = tokens(FRUIT, LONG, FRUIT, max_length=15, overlong=Overlong.drop)
    assert ids(found) == [([0, 4, 6, 7, 8, 5, 7, 9, 1], [0, 4, 6, 7, 8, 5, 10, 1])] * 2
    assert (found.num_dropped, found.num_cut) == (1, 0)


def test_a_cut_takes_the_tokens_after_bos_from_both_sides_alike() -> None:
    found = tokens(LONG, FRUIT, max_length=14, overlong=Overlong.cut)
    left = [0, 6, 6, 7, 7, 7, 8, 8, 8, 5]  # 4 and 6, the first two after BOS, are gone: the longer side had 16
    assert ids(found)[0] == ([*left, 7, 9, 1], [*left, 10, 10, 10, 1])
    assert (found.num_dropped, found.num_cut) == (0, 1)


def test_of_every_pair_it_is_known_which_share_of_its_tokens_is_trained_on() -> None:
    same = Preference(prompt=user("name a fruit"), chosen="plum", rejected="plum")
    dropped = tokens(LONG, FRUIT, same, max_length=14, overlong=Overlong.drop)
    assert dropped.shares_N.tolist() == [0.0, 1.0, 0.0]
    cut = tokens(LONG, FRUIT, max_length=14, overlong=Overlong.cut)  # of its 15 + 16 tokens two are cut on either side
    assert cut.shares_N.tolist() == [1 - 4 / 31, 1.0]


def test_without_bos_a_cut_begins_with_the_first_token() -> None:
    found = tokens(LONG, max_length=14, overlong=Overlong.cut, tokenizer=word_tokenizer(template_bos=False))
    left = [6, 6, 6, 7, 7, 7, 8, 8, 8, 5]  # of 15 on the longer side one too many: 4
    assert ids(found) == [([*left, 7, 9, 1], [*left, 10, 10, 10, 1])]


@pytest.mark.parametrize(("max_length", "num_cut"), [(12, 1), (11, 0)])
def test_a_cut_that_leaves_fewer_than_8_tokens_of_the_prompt_drops_the_pair(max_length: int, num_cut: int) -> None:
    found = tokens(LONG, FRUIT, max_length=max_length, overlong=Overlong.cut)  # rejected's 4 tokens after a prompt of 8, or of 7
    assert (found.num_cut, found.num_dropped) == (num_cut, 1 - num_cut)
    if num_cut:
        left = [0, 7, 7, 7, 8, 8, 8, 5]
        assert ids(found)[0] == ([*left, 7, 9, 1], [*left, 10, 10, 10, 1])


def test_answers_that_begin_alike_are_not_taken_for_the_prompt() -> None:
    # The prompt has 6 tokens (0 4 6 7 8 5), though the two sides share 16: a cut would leave fewer than 8 of the prompt.
    pair = Preference(prompt=user("name a fruit"), chosen="a a a a a a a a a a plum", rejected="a a a a a a a a a a lamp")
    assert tokens(FRUIT, pair, max_length=17, overlong=Overlong.cut).num_dropped == 1


def test_no_pair_left_is_refused() -> None:
    for overlong in Overlong:
        with pytest.raises(ValueError, match=r"No pair fits into max_length=7 tokens; raise max_length\."):
            tokens(FRUIT, LONG, max_length=7, overlong=overlong)


def test_chunks_change_nothing_and_progress_counts_every_pair(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Preference(prompt=user(f"Name fruit {i}."), chosen="A plum." * (i % 3), rejected="5") for i in range(10)]
    whole = tokenize(pairs, tokenizer, max_length=100, overlong=Overlong.drop)
    seen: list[object] = []

    class Recorded(NoProgress):
        def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
            seen.append(total)

        def advance(self, n: int = 1) -> None:
            seen.append(n)

        def finish(self) -> None:
            seen.append("end")

    monkeypatch.setattr(rmtrain.token_store, "CHUNK", 4)
    assert ids(tokenize(pairs, tokenizer, max_length=100, overlong=Overlong.drop, progress=Recorded())) == ids(whole)
    assert seen == [10, 4, 4, 2, "end"]
    assert ids(whole) == [tuple(encode_answered(tokenizer, [pair.prompt] * 2, [pair.chosen, pair.rejected])) for pair in pairs]


def test_a_dialogue_that_the_template_refuses_is_named_by_source_and_prompt() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + str(
        tokenizer.chat_template
    )
    system = (Message(role="system", content="be short"), *user("name a fruit"))
    strange = Preference(prompt=system, chosen="plum", rejected="lamp", source="fruits")
    with pytest.raises(ValueError, match=r"a pair of fruits whose prompt begins 'be short': the chat template refuses .*no system turns"):
        tokens(FRUIT, strange, max_length=20, overlong=Overlong.drop, tokenizer=tokenizer)
