"""A chat template that writes the date writes that of its run."""

import copy
from datetime import date, datetime

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from core.data.chat import encode_prompts
from core.data.dates import pin_date, pinned_date, written_date
from core.records import user

DATED = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: {{ date_string }}\n"


@pytest.fixture
def dated(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> PreTrainedTokenizerFast:
    own = copy.deepcopy(tokenizer)
    own.chat_template = DATED + str(tokenizer.chat_template)
    monkeypatch.setattr(chat_template_utils, "datetime", datetime)  # put back in the end
    return own


def test_the_pinned_day_is_written_also_where_others_render(dated: PreTrainedTokenizerFast) -> None:
    for day, shown in ((date(2024, 2, 29), "29 Feb 2024"), (date(2026, 1, 1), "01 Jan 2026")):
        pin_date(day)
        (row,) = encode_prompts(dated, [user("a")])
        assert f"Today: {shown}" in dated.decode(row)
        assert f"Today: {shown}" in str(dated.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False))


def test_it_is_known_whether_a_text_depends_on_the_day(dated: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast) -> None:
    pin_date(date(2024, 2, 29))
    encode_prompts(tokenizer, [user("a")])
    assert (written_date(), pinned_date()) == (None, date(2024, 2, 29))
    encode_prompts(dated, [user("a")])
    assert written_date() == date(2024, 2, 29)
