"""An answer ends where its model ends it: at any id that the generation config, the tokenizer or the template names."""

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.chat import encode_answered, encode_prompts, pad_id
from core.data.padding import pad_left
from core.data.turn_ends import answer_texts, template_end, turn_ends
from core.generators.continuous import ContinuousGenerator
from core.generators.local import TransformersGenerator
from core.records import Generator, Sampling, user
from tests.fakes import TURNS, WORDS, only_id, tiny_llama, with_likely_end, word_tokenizer

EOT = "<|eot_id|>"
PROMPTS = [user("name a fruit"), user("name a short fruit"), user("name a lamp")]


def ending_with(after: str, *, special: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer whose EOS is `</s>`, and whose template writes `after` behind an answer."""
    tokenizer = word_tokenizer(pad="<unk>")
    tokenizer.add_tokens([EOT], special_tokens=special)
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace(TURNS, TURNS.replace("</s>", after))
    return tokenizer


def policy_of(tokenizer: PreTrainedTokenizerFast, likely: str, declared: list[str]) -> LlamaForCausalLM:
    """A policy that says `likely` at about every third token, and whose generation config declares these tokens."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_llama(tokenizer)).eval()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [only_id(tokenizer.convert_tokens_to_ids(token)) for token in declared]
    return with_likely_end(model, only_id(tokenizer.convert_tokens_to_ids(likely)), share=0.3)


@pytest.mark.parametrize(
    ("after", "end"),
    [
        ("</s>", "</s>"),
        (f"{EOT}\n", EOT),
        (f"\n{EOT}", EOT),
        (f"{EOT} </s>", EOT),
        (f"</s> <s> {EOT}", "</s>"),
        ("<s>", None),
        ("\n\n", None),
        ("", None),
        ("{% if not loop.last %}<|user|>{% endif %}", "<|user|>"),
        ("{% if loop.last %}</s>{% else %}" + EOT + "{% endif %}", "</s>"),
    ],
)
def test_the_templates_end_of_turn_is_the_first_marker_after_an_answer(after: str, end: str | None) -> None:
    tokenizer = ending_with(after)
    assert template_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


def test_a_template_that_refuses_the_trial_has_no_end_of_its_own() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}</s>"
    assert template_end(tokenizer) is None


def test_all_ids_of_the_generation_config_end_an_answer_beside_eos_and_the_templates_own() -> None:
    tokenizer = ending_with(f"{EOT}\n")
    model = policy_of(tokenizer, EOT, ["<|user|>"])
    assert turn_ends(model, tokenizer) == {only_id(tokenizer.convert_tokens_to_ids(token)) for token in (EOT, "<|user|>", "</s>")}
    assert model.generation_config is not None
    model.generation_config.eos_token_id = only_id(tokenizer.convert_tokens_to_ids("<|user|>"))
    assert len(turn_ends(model, tokenizer)) == 3
    model.generation_config.eos_token_id = None
    assert len(turn_ends(model, tokenizer)) == 2


def test_a_policy_that_names_no_end_of_turn_is_refused() -> None:
    tokenizer = ending_with("")
    model = policy_of(tokenizer, EOT, [])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names no token that ends an answer"):
        turn_ends(model, tokenizer)


@pytest.mark.parametrize("kind", [TransformersGenerator, ContinuousGenerator])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(("after", "declared"), [("</s>", [EOT, "</s>"]), (f"{EOT}\n", ["</s>"])])
def test_every_engine_stops_where_transformers_does_and_the_text_is_without_the_end(
    kind: type[TransformersGenerator] | type[ContinuousGenerator], special: bool, after: str, declared: list[str]
) -> None:
    tokenizer = ending_with(after, special=special)
    model, eot = policy_of(tokenizer, EOT, declared), only_id(tokenizer.convert_tokens_to_ids(EOT))
    ids, mask = pad_left(encode_prompts(tokenizer, PROMPTS), pad_id(tokenizer))
    untyped: Any = copy.deepcopy(model)
    untyped.generation_config.eos_token_id = [eot, tokenizer.eos_token_id]
    output = untyped.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=12)[:, ids.shape[1] :]
    ends = {eot, only_id(tokenizer.eos_token_id)}
    lengths = [next((n for n, id in enumerate(row, 1) if id in ends), len(row)) for row in output.tolist()]
    expected = [row[:length] for row, length in zip(output.tolist(), lengths, strict=True)]
    generator: Generator = kind(model, tokenizer)
    found = [row[0] for row in generator.generate(PROMPTS, Sampling(temperature=0, max_new_tokens=12))]
    assert [list(completion.token_ids) for completion in found] == expected
    assert any(completion.finished for completion in found)
    for completion in found:
        assert completion.finished == (completion.token_ids[-1] in ends)
        assert EOT not in completion.text


def test_an_answer_that_was_ended_scores_as_the_text_that_the_template_writes() -> None:
    tokenizer = ending_with(f"{EOT}\n", special=False)
    plum, eot, eos = (only_id(tokenizer.convert_tokens_to_ids(token)) for token in ("plum", EOT, "</s>"))
    ends = frozenset([eot, eos])
    texts = answer_texts(tokenizer, [[plum, eot], [plum, eos], [plum], [], [eot]], ends)
    assert texts == ["plum", "plum", "plum", "", ""]
    [row] = encode_answered(tokenizer, [PROMPTS[0]], texts[:1])
    assert row.count(eot) == 1
    assert row[-2:] == [plum, eot]
    assert len(WORDS) == eot  # added behind the words
