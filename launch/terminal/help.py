"""`rewardloop JOB --help`: every key of a job with its default and what it means, from the docstrings of the configuration.

A field is described by the text under it, or by the docstring of its enum. Imports no torch.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from launch.compose import GROUPS
from launch.overrides.differences import text_of
from launch.schema import SCHEMAS

INTERNAL = ("embedded_model",)
"""Keys that files set and nobody types."""
INTERNAL_GROUPS = ("preset", "shared")
"""Folders of conf/ that other files choose from."""
WIDTH = 112


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key of a job: its dotted name, its default as one would type it, its choices if they are words, and what it means.

    >>> Key(name="epochs", default="1", choices=(), text="Passes over the data.").name
    'epochs'
    """

    name: str
    default: str
    choices: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """The keys of one dataclass, under the prefix that they share (empty for the job's own), with its docstring."""

    prefix: str
    text: str
    keys: tuple[Key, ...]


def help_of(name: str) -> str:
    """The whole help of a job."""
    lines = [f"usage: rewardloop {name} [key=value ...] [group=choice ...]", "", _wrapped(first_sentences(SCHEMAS[name]), "")]
    if groups := groups_of(name):
        lines += ["", "groups, each a choice of files that set keys:"]
        lines += [_wrapped(f"{group}={'|'.join(choices)}", "  ", "      ") for group, choices in groups.items()]
    for section in sections_of(SCHEMAS[name]):
        head = f"{section.prefix}.*" if section.prefix else "keys of the job"
        lines += ["", _wrapped(f"{head}: {section.text}" if section.prefix else f"{head}:", "")]
        for key in section.keys:
            choices = f"  [{'|'.join(key.choices)}]" if key.choices else ""
            lines += [f"  {key.name}={key.default}{choices}", _wrapped(key.text, "        ")]
    return "\n".join([*lines, "", *_FOOT])


_FOOT = (
    "Defaults are those of real models; without model=... rm, ppo and bon are a quick run on the embedded world, which",
    "`rewardloop study experiment=demo` makes, with smaller sizes. Lists are typed as 'key=[a,b]'; null empties a key.",
    "-m sweeps over values with commas; --cfg job prints the configuration; dry_run=true looks at the inputs and runs nothing.",
    "--config-dir DIR adds a folder of files (DIR/experiment/NAME.yaml: experiment=NAME, or --config-name NAME).",
)


def sections_of(schema: type) -> list[Section]:
    """All keys of a schema by dataclass: the job's own first, then the nested ones in the order of their fields."""
    return list(_sections(schema, "", None))


def groups_of(name: str) -> dict[str, list[str]]:
    """The groups that the job's file chooses from, with their choices; without those that only other files choose."""
    text = (GROUPS / f"{name}.yaml").read_text(encoding="utf-8")
    named = dict.fromkeys(re.findall(r"^  - (?:optional )?(\w+): ", text, flags=re.MULTILINE))
    folders = {group: GROUPS / group for group in named if group not in INTERNAL_GROUPS and (GROUPS / group).is_dir()}
    return {
        group: sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
        for group, folder in folders.items()
    }


def first_sentences(thing: type) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _sections(config: type, prefix: str, values: object) -> Iterator[Section]:
    """The section of a dataclass and those nested in it; `values` is an instance that holds defaults of its own, if there is one."""
    hints, texts = get_type_hints(config), field_texts(config)
    keys: list[Key] = []
    nested: list[tuple[str, type, object]] = []
    for item in fields(config):
        name = f"{prefix}.{item.name}" if prefix else item.name
        hint = _bare(hints[item.name])
        if name in INTERNAL:
            continue
        value = getattr(values, item.name) if values is not None else _default(item)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            nested.append((name, hint, None if value is MISSING else value))
            continue
        text = " ".join((texts.get(item.name, "") or _enum_text(hint)).split())
        keys.append(Key(name=name, default=_typed(value), choices=tuple(_choices(hint)), text=text))
        if (inner := _mapped(item, hint)) is not None:
            nested.append((f"{name}.NAME", inner, None))
    yield Section(prefix=prefix, text=first_sentences(config), keys=tuple(keys))
    for name, inner, own in nested:
        yield from _sections(inner, name, own)


@cache
def field_texts(config: type) -> dict[str, str]:
    """The text under each field of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
                case _:
                    pass
    return found


def _bare(hint: Any) -> Any:
    """A type without what it says of the run's identity, and without None."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if type(None) in get_args(hint) and len(options) == 1 else hint


def _mapped(item: "Field[Any]", hint: Any) -> type | None:
    """The dataclass that a mapping of the user's names holds."""
    inner = item.metadata.get("item_type") or (get_args(hint)[1] if get_origin(hint) is dict else None)
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def _default(item: "Field[Any]") -> object:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _typed(value: object) -> str:
    """A default as one would type it; that of a key that must be given is ???."""
    return "???" if value is MISSING else "{}" if value == {} else text_of(value)


def _choices(hint: Any) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        yield from (str(choice.value) for choice in hint)


def _enum_text(hint: Any) -> str:
    return first_sentences(hint) if isinstance(hint, type) and issubclass(hint, Enum) else ""


def _wrapped(text: str, indent: str, later: str | None = None) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def undescribed(schemas: Sequence[type]) -> list[str]:
    """The keys of these jobs that say nothing of themselves."""
    return sorted({key.name for schema in schemas for section in sections_of(schema) for key in section.keys if not key.text})
