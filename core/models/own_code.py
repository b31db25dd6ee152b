"""Models that bring code of their own: refused in our words, since that code is never run and the weights mean nothing without it."""

import json
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.models.locate import CONFIG, ModelLocation, find_file

TOKENIZER_CONFIG = "tokenizer_config.json"


def require_known_classes(source: ModelLocation) -> None:
    """Raises `ValueError` for a model whose config.json names classes of its own in `auto_map`.

    Models that transformers has adopted, such as Phi 3, go on naming their former classes, by the same names as transformers.
    """
    config = _read(source, CONFIG)
    foreign = _foreign(config, "AutoModel")
    if config.get("model_type") not in CONFIG_MAPPING:
        foreign += _foreign(config, "AutoConfig")
    if foreign:
        raise ValueError(
            f"{source.path}: its {CONFIG} names code of its own ({', '.join(foreign)}), which is not run here, and without it the weights "
            "would be read as another model's. Give a model whose class is one of transformers', or serve it (reward.kind=vllm)."
        )


def require_known_tokenizer(source: ModelLocation) -> None:
    """Raises `ValueError` for a tokenizer without a tokenizer_config.json, and for one whose class is code of its own."""
    if find_file(source, TOKENIZER_CONFIG) is None:
        raise ValueError(
            f"{source.path} has no {TOKENIZER_CONFIG}, so that BOS, special tokens and the chat template would be guessed; copy it from "
            "the model that this one was trained from, or save the tokenizer again (tokenizer.save_pretrained)."
        )
    config = _read(source, TOKENIZER_CONFIG)
    foreign = _foreign(config, "AutoTokenizer")
    if foreign and not _is_known(str(config.get("tokenizer_class"))):
        raise ValueError(
            f"{source.path}: its {TOKENIZER_CONFIG} names code of its own ({', '.join(foreign)}), which is not run here; save its "
            "tokenizer as one of transformers' classes."
        )


def _foreign(config: dict[str, Any], prefix: str) -> list[str]:
    """The classes in `auto_map`, under keys that begin with `prefix`, that transformers does not have."""
    declared = config.get("auto_map") or {}
    if not isinstance(declared, dict):  # a tokenizer's, in an old form
        declared = {"AutoTokenizer": declared}
    found: dict[str, None] = {}
    for key, value in declared.items():
        for name in value if isinstance(value, list) else [value]:
            if str(key).startswith(prefix) and name and not _is_known(str(name).rpartition(".")[2]):
                found[str(name)] = None
    return list(found)


def _is_known(name: str) -> bool:
    return name in dir(transformers)


def _read(source: ModelLocation, name: str) -> dict[str, Any]:
    file = find_file(source, name)
    found = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
