"""What scorers read: one token row (a sequence of token ids) per completion, including its prompt."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from core.data.chat import UnreadableError, at_once, encode, specials
from core.data.dialogues import turn_of
from core.data.template_check import counted, described
from core.progress import Progress
from core.records import Answer, CompletionScore, Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRows:
    """One token row per completion, prompt by prompt; `truncated` ones were cut at the end to the length limit.

    `bounds` holds the index of each prompt's first row, and at the end the number of rows. `lost` counts the rows of which the
    chat template leaves something out; `types` are the token types where prompts and answers are pairs of texts.
    """

    rows: tuple[list[int], ...]
    truncated: tuple[bool, ...]
    bounds: tuple[int, ...]
    lost: Mapping[str, int] = field(default_factory=dict)
    types: tuple[list[int], ...] | None = None

    @property
    def places(self) -> list[range]:
        """The row indices of each prompt that has any."""
        return [range(start, end) for start, end in pairwise(self.bounds) if end > start]

    def completion_scores(self, rewards: Sequence[float]) -> list[list[CompletionScore]]:
        """The rewards of the rows, grouped by prompt, with the number of tokens behind each."""
        found: list[list[CompletionScore]] = []
        for start, end in pairwise(self.bounds):
            times = Counter(map(tuple, self.rows[start:end]))
            found.append(
                [
                    CompletionScore(reward=reward, num_tokens=len(row), truncated=cut, repeated=times[tuple(row)] > 1)
                    for reward, row, cut in zip(rewards[start:end], self.rows[start:end], self.truncated[start:end], strict=True)
                ]
            )
        return found

    def say_lost(self, said: set[str], say: Callable[[str], None]) -> None:
        """Tells `say` what the template leaves out, unless that is in `said` already."""
        new = {name: num for name, num in self.lost.items() if name not in said}
        said.update(new)
        for line in described(new, len(self.rows), "scored texts"):
            say(line)


def token_rows(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]], max_length: int
) -> TokenRows:
    """Renders every prompt with each of its completions by the chat template, as rows of at most `max_length` tokens.

    Raises `UnreadableError`, by the index of the prompt, for prompts that the template refuses or writes nothing sensible of.
    """
    owners = [index for index, answers in enumerate(completions) for _ in answers]
    dialogues = [(*prompt, turn_of(answer)) for prompt, answers in zip(prompts, completions, strict=True) for answer in answers]
    encoded = encode(tokenizer, dialogues, answered=True, skip=True)
    if broken := encoded.broken:
        raise UnreadableError({owners[index]: reason for index, reason in broken.items()}, len(prompts), tokenizer.name_or_path)
    bounds = [0]
    for answers in completions:
        bounds.append(bounds[-1] + len(answers))
    _, after = specials(tokenizer)
    return TokenRows(
        rows=tuple(_cut(row, max_length, after) for row in encoded.rows),
        types=None if encoded.types is None else tuple(row[:max_length] for row in encoded.types),
        truncated=tuple(len(row) > max_length for row in encoded.rows),
        bounds=tuple(bounds),
        lost=counted(encoded.checks),
    )


def _cut(row: list[int], max_length: int, after: Sequence[int]) -> list[int]:
    """The row, cut to the limit; special tokens that the tokenizer puts at the end stay, as in transformers."""
    if len(row) <= max_length or not after or row[-len(after) :] != list(after):
        return row[:max_length]
    return [*row[: max_length - len(after)], *after]


def require_readable(
    tokenizer: "PreTrainedTokenizerBase",
    dialogues: Mapping[str, Dialogue],
    what: str,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> None:
    """Raises `ValueError` that names the prompts which the chat template refuses, or writes nothing sensible of.

    `dialogues` are by name; `what` begins the message. `say` is told what else the template leaves out. Of prompts that are one
    user turn only the first is tried.
    """
    plain = [name for name, dialogue in dialogues.items() if [turn.role for turn in dialogue] == ["user"] and not dialogue[0].fields]
    alike = set(plain[1:])
    tried = {name: dialogue for name, dialogue in dialogues.items() if name not in alike}
    broken: dict[int, str] = {}
    lost = Counter[str]()
    asked = list(tried.values())
    for start, part in at_once(asked, f"trying the chat template on prompts ({what})", progress):
        encoded = encode(tokenizer, part, answered=False, skip=True)
        broken |= {start + place: reason for place, reason in encoded.broken.items()}
        lost.update(counted(encoded.checks))
    if broken:
        raise ValueError(f"{what}: {UnreadableError(broken, len(dialogues), tokenizer.name_or_path).listed(list(tried), 'prompts')}")
    for line in described(lost, len(dialogues), f"prompts ({what})"):
        say(line)
