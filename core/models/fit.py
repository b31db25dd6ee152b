"""Whether weights, architecture and tokenizer belong together: what a file holds must be used, and what text needs must be there."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from core.data.chat import sample_renderings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LANGUAGE_HEADS = ("lm_head.", "embed_out.", "output_projection.", "cls.")
"""Prefixes of the weights that turn hidden states into logits; a reward model on the same body has no use for them."""
_VALUE_HEADS = ("v_head.",)
"""Those of the value head that TRL saves with a policy, which its language model does not use."""


def some(names: Collection[str]) -> str:
    """The first names of many, for a message."""
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more weights" if len(names) > 3 else "")


def require_used(path: str, model: "PreTrainedModel", unused: Iterable[str], *, policy: bool) -> None:
    """Raises `ValueError` if a checkpoint holds weights that `model` does not use: then it is not what its config says.

    The head of a language model is not missed by a reward model, nor is a value head by a policy.
    """
    known = _VALUE_HEADS if policy else LANGUAGE_HEADS
    left = {name for name in unused if not name.startswith(known)}
    if left:
        raise ValueError(
            f"{path} holds weights that {type(model).__name__} does not use: {some(left)}. Without them its outputs are not those of the "
            "model that was trained; correct its config.json (architectures, num_hidden_layers), or save it without them."
        )


def require_same_shapes(path: str, model: "PreTrainedModel", mismatched: Iterable[tuple[str, ...]]) -> None:
    """Raises `ValueError` for weights whose shape in the checkpoint is not the model's; each is (name, its shape, the model's)."""
    found = [f"{name} {tuple(theirs)} instead of {tuple(ours)}" for name, theirs, ours in mismatched]
    if found:
        raise ValueError(f"{path} does not fit its config.json: for a {type(model).__name__} it holds {some(found)}; save the model again.")


def require_embeddings(path: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises `ValueError` if text can hold tokens that the model has no embeddings for; all of them would look alike to it.

    Neither the pad token nor special tokens that the chat template never writes, such as Gemma 3's for images, need any.
    """
    num_known = len(model.get_input_embeddings().get_parameter("weight"))
    unknown = {id: token for token, id in tokenizer.get_vocab().items() if id >= num_known and token != tokenizer.pad_token}
    if not unknown:
        return
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    texts = [str(tokenizer.bos_token), str(tokenizer.eos_token), *sample_renderings(tokenizer)]
    needed = [token for id, token in sorted(unknown.items()) if id not in special or any(token in text for text in texts)]
    if needed:
        raise ValueError(
            f"{path}: its tokenizer has {len(needed)} tokens without an embedding, such as {needed[0]!r}: the model has embeddings for "
            f"{num_known} ids, the tokenizer has {max(unknown) + 1}. Give the tokenizer that the model was trained with, or resize "
            "its embeddings and train them first."
        )


def require_embedded(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Sequence[int]]) -> None:
    """Raises `ValueError` if prompts hold a token that the model has no embedding for, such as Gemma 3's for images, typed out."""
    largest = max((max(row, default=0) for row in rows), default=0)
    if largest >= len(model.get_input_embeddings().get_parameter("weight")):
        number = next(number for number, row in enumerate(rows) if largest in row)
        token = tokenizer.convert_ids_to_tokens(largest)
        raise ValueError(
            f"prompt {number + 1} of {len(rows)} holds {token!r}, a token that the model has no embedding for; take it out of the prompt."
        )
