"""The pad token of a tokenizer: what it must not be, and where it decides at which token a reward is read.

A sequence classifier of transformers gives the reward of the last token that is not the pad token, wherever padding begins. A pad
token that also occurs as content at the end of a text therefore moves the reward.
"""

from typing import TYPE_CHECKING

from core.data.chat import sample_renderings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from core.trees.layout import TokenIds

PAD_TOKEN = "<|pad|>"


def require_own_pad(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Gives the tokenizer a new pad token if it has none, or one that is also content: EOS, or a token that its chat template writes."""
    pad = tokenizer.pad_token
    if isinstance(pad, str) and tokenizer.pad_token_id != tokenizer.eos_token_id and not _is_written(tokenizer, pad):
        return
    known, new, number = tokenizer.get_vocab(), PAD_TOKEN, 1
    while new in known:
        number += 1
        new = f"<|pad-{number}|>"
    tokenizer.add_special_tokens({"pad_token": new})


def require_pad_below(tokenizer: "PreTrainedTokenizerBase", num_known: int) -> None:
    """Gives the tokenizer of a policy EOS as pad token if it has none, or one that is not among the `num_known` ids with an embedding.

    Of a policy nothing is read at the pad token, which is masked: one of its own would only add a row to its embeddings, and the policy
    would no longer be of its base's shape.
    """
    pad = tokenizer.pad_token_id
    if not isinstance(pad, int) or pad >= num_known:
        tokenizer.pad_token = tokenizer.eos_token or str(tokenizer.convert_ids_to_tokens(0))


def same_tokens(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> bool:
    """Whether both give the same tokens the same ids, apart from those that either pads with."""
    pads = [one.pad_token, other.pad_token]
    ours, theirs = ({token: id for token, id in each.get_vocab().items() if token not in pads} for each in (one, other))
    return ours == theirs


def without_trailing_pads(row: "TokenIds", pad: int | None) -> "TokenIds":
    """The row up to its last token that is not `pad`, where a classifier of transformers reads the reward; at least one token.

    >>> without_trailing_pads([5, 0, 7, 0, 0], 0)
    [5, 0, 7]
    """
    end = len(row)
    while end > 1 and row[end - 1] == pad:
        end -= 1
    # Of nothing but pads transformers reads the first, as this does.
    return row if end == len(row) else row[:end]


def _is_written(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    """Whether the chat template, or what the tokenizer adds to a text by itself, can write the token."""
    if tokenizer.chat_template is None:
        return False
    if token in str(tokenizer.chat_template):
        return True
    ids = {token_id for text in sample_renderings(tokenizer) for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]}
    return tokenizer.pad_token_id in ids | set(tokenizer("a")["input_ids"])
