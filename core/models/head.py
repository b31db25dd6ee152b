"""The head of a reward model, and rewards read from prompt trees or padded rows.

Shapes: B batch, L padded length, R rewards, one per sequence, H hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from core.data.pad_token import without_trailing_pads
from core.data.padding import pad_right
from core.process.precision import without_autocast
from core.transfer import to_device
from core.trees.attention import encode, obstacle, tree_stream
from core.trees.layout import TokenIds


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroups:
    """Token rows grouped by prompt, as a type that engines pass on without looking inside.

    They are read as prompt trees unless they are to be `padded`; `types` are token types, for models that have them.
    """

    groups: Sequence[Sequence[TokenIds]]
    padded: bool = False
    types: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardPass:
    """A reward model as its engine runs it: the only way through weights that are split over processes.

    `rewards` maps rows to their rewards in fp32, shape (R,); all processes must call it together, each with rows of its own.
    `padding_reason` says why rows cannot be read as prompt trees; None if they can.
    """

    rewards: Callable[[RowGroups], Tensor]
    padding_reason: str | None


def tree_rewards(model: PreTrainedModel, groups: Sequence[Sequence[TokenIds]], preamble: Sequence[int] = ()) -> Tensor:
    """Rewards in fp32 of all sequences of all groups, in order, read at their last tokens that are not padding; shape (R,).

    `model` must be in `tree_attention`. Gradients flow where enabled, into a prompt from all its completions.
    """
    pad = pad_of(model)
    # No token sees those after it, so the end can be left out.
    stream = tree_stream(model, [[without_trailing_pads(row, pad) for row in rows] for rows in groups], preamble).to(model.device)
    hidden_RH = encode(model, stream)[stream.last_token_indices()].float()
    head = head_of(model)
    # A matrix product rounds differently with the number of rows; a product and a sum do not.
    rewards_R = (hidden_RH * head.weight.float()).sum(-1)
    bias = bias_of(head)
    return rewards_R if bias is None else rewards_R + bias.float()


def padded_rewards(model: PreTrainedModel, rows: Sequence[TokenIds], pad_id: int, types: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Rewards in fp32 by the model's own forward pass, with right padding and an attention mask; shape (R,).

    `types` are token types, for models that have them.
    """
    own = pad_of(model)  # by which the model finds the end of a row
    ids_BL, mask_BL = (to_device(tensor, model.device) for tensor in pad_right(rows, pad_id if own is None else own))
    more: dict[str, Tensor] = {}
    if types is not None:
        more["token_type_ids"] = to_device(pad_right(types, 0)[0], model.device)
    return model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False, **more).logits[:, 0].float()


def pad_of(model: PreTrainedModel) -> int | None:
    """The id of the pad token in a model's configuration; a classifier of transformers reads the last token that is another."""
    return model.config.get_text_config().pad_token_id


def reward_obstacle(model: PreTrainedModel, max_length: int) -> str | None:
    """Why the classifier's rewards cannot be read from prompt trees; None if they can."""
    if _find_head(model) is None:
        return f"the head of {type(model).__name__} is not a linear layer named score"
    return obstacle(model, max_length)


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that turns a classifier's hidden states into rewards, or the trained copy that peft keeps of it.

    Raises `ValueError` for a model that has none.
    """
    head = _find_head(model)
    if head is None:
        raise ValueError(f"{type(model).__name__} has no linear head 'score'; give a decoder such as a Llama.")
    return head


def bias_of(layer: nn.Linear) -> Tensor | None:
    """The bias of a linear layer, None where it has none; torch's own annotation knows only layers with one."""
    return layer.bias


class RewardHead(nn.Linear):
    """A head that computes in fp32, even under autocast or on hidden states in another format, as `tree_rewards` does.

    Near 3, neighbouring bf16 numbers are 1/64 apart: too coarse for the difference of two rewards.
    """

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input.device):
            bias = bias_of(self)
            return linear(input.float(), self.weight.float(), None if bias is None else bias.float())


def compute_in_fp32(head: nn.Linear) -> None:
    """Makes a `RewardHead` of a linear layer, in place, with the same weights."""
    if type(head) is nn.Linear:
        head.__class__ = RewardHead


def _find_head(model: PreTrainedModel) -> nn.Linear | None:
    head = dict(model.named_children()).get("score")
    # peft's wrapper around a fully trained module: the original beside a trained copy under the adapter's name.
    copies = dict(head.named_children()).get("modules_to_save") if head is not None else None
    if copies is not None:
        head = next(iter(copies.children()), None)
    return head if isinstance(head, nn.Linear) else None
