"""Values of keys that take text, kept as they were typed: Hydra would read the run id 8472e13 as a number."""

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from launch.overrides.grammar import quoted, split_outside


def as_typed(schema: type, overrides: Sequence[str]) -> list[str]:
    """The overrides with quotes around whatever Hydra would read as a number or a truth value although its key takes text.

    One value for a key that takes a list becomes a list of it, as in data.paths=pairs.jsonl.

    Raises `ValueError` for null, which is no text: whoever gives it wants nothing there, and nothing is the empty text.

    >>> from launch.schema import ReportJob
    >>> as_typed(ReportJob, ["study=1_1_1", "runs_dir=runs"])
    ["study='1_1_1'", 'runs_dir=runs']
    """
    return [_override(schema, text) for text in overrides]


def _override(schema: type, text: str) -> str:
    key, equals, value = text.partition("=")
    hint = _hint(schema, key.lstrip("+").split("."))
    if not equals or text.startswith("~") or hint is None:
        return text
    pieces = split_outside(value, ",")  # commas sweep
    if hint is str and "null" in (piece.strip().lower() for piece in pieces):
        raise ValueError(f"{text}: {key.lstrip('+')} takes text; for none give {key}='', and for the word itself \"{key}='null'\".")
    return f"{key}={','.join(_value(piece, hint) for piece in pieces)}"


def _hint(hint: Any, keys: Sequence[str]) -> Any:
    """The type under nested keys; None where the schema does not know them."""
    if not keys:
        return hint
    own, *others = keys
    if is_dataclass(hint):
        return _hint(_hints(hint).get(own), others)
    return _hint(get_args(hint)[1], others) if get_origin(hint) in (dict, Mapping) else None


def _hints(config: Any) -> dict[str, Any]:
    """The types of a configuration's fields; `item_type` in a field's metadata says what a mapping of anything really holds."""
    hints = get_type_hints(config)
    items = {item.name: item.metadata["item_type"] for item in fields(config) if "item_type" in item.metadata}
    return hints | {name: dict[str, item] for name, item in items.items()}


def _value(text: str, hint: Any) -> str:
    """A value for something of this type, with quotes where Hydra would not keep the text."""
    bare = text.strip()
    if get_origin(hint) in (Union, types.UnionType) and bare.lower() != "null":  # where nothing is allowed, null means nothing
        (option, *_) = [option for option in get_args(hint) if option is not type(None)]
        return _value(text, option) if option is str or get_origin(option) is list else text
    if hint is str:
        return quoted(bare) if _is_misread(bare) else text
    if get_origin(hint) is list and bare.startswith("[") and bare.endswith("]"):
        (item,) = get_args(hint)
        return f"[{','.join(_value(piece, item) for piece in split_outside(bare[1:-1], ','))}]"
    if get_origin(hint) is list and _is_single(bare):
        (item,) = get_args(hint)
        return f"[{_value(bare, item)}]"
    if bare.startswith("{") and bare.endswith("}") and bare[1:-1].strip():
        return "{" + ",".join(_pair(piece, hint) for piece in split_outside(bare[1:-1], ",")) + "}"
    return text


def _is_single(bare: str) -> bool:
    """Whether a value for a list is one item of it: no list, nothing, interpolation or function of Hydra's such as glob(*)."""
    return bool(bare) and not bare.startswith(("[", "${", "{")) and bare.lower() != "null" and not re.fullmatch(r"\w+\(.*\)", bare)


def _pair(text: str, hint: Any) -> str:
    key, *rest = split_outside(text, ":")
    inner = _hint(hint, [key.strip()])
    return text if inner is None else f"{key}:{_value(':'.join(rest), inner)}"


def _is_misread(text: str) -> bool:
    """Whether Hydra reads a text without quotes as something else, or cannot for its letters."""
    try:
        return isinstance(OverridesParser.create().parse_override(f"key={text}").value(), bool | int | float | None)
    except HydraException:
        return not text.isascii()  # letters that its grammar does not know; it says itself what else is wrong
