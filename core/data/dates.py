"""The date that chat templates write: one for a whole run, since rewards and training change with it.

Llama 3.1, SmolLM3 and others put the present day into the system turn by `strftime_now`.
"""

from datetime import date, datetime, time, tzinfo
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Clock(datetime):
    """Stands still at noon of a day. `is_read` says whether a template with a date was rendered since."""

    pinned: ClassVar[date | None] = None
    is_read: ClassVar[bool] = False

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        assert cls.pinned is not None
        return datetime.combine(cls.pinned, time(12), tz)


def pin_date(day: date) -> None:
    """From now on, `day` is the present day for all chat templates in this process, also where other libraries render them."""
    from transformers.utils import chat_template_utils

    _Clock.pinned, _Clock.is_read = day, False
    # transformers hands templates its own clock, and copies arguments of templates as plain data, so a function cannot be passed.
    chat_template_utils.datetime = _Clock  # pyright: ignore[reportPrivateImportUsage]


def pinned_date() -> date | None:
    """The day that was pinned; None before."""
    return _Clock.pinned


def written_date() -> date | None:
    """The pinned day if a chat template that writes the date was rendered since; None if no text depends on it."""
    return _Clock.pinned if _Clock.is_read else None


def note_date(tokenizer: "PreTrainedTokenizerBase") -> None:
    """To be called before a template is rendered: where it writes the date, today is pinned unless a day is already."""
    if not _writes_date(tokenizer):
        return
    if _Clock.pinned is None:
        pin_date(date.today())
    _Clock.is_read = True


def date_of(tokenizer: "PreTrainedTokenizerBase") -> date | None:
    """The day that the tokenizer's chat template writes into its texts; None if it writes none. As where it was rendered."""
    note_date(tokenizer)
    return _Clock.pinned if _writes_date(tokenizer) else None


def _writes_date(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return "strftime_now" in str(tokenizer.chat_template)
