"""Mappings whose keys are the user's, such as `rewards` and `tasks`: their values as typed settings."""

from dataclasses import fields
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


def typed(key: str, value: object, schema: type[T], *, what: str, example: str) -> T:
    """The dataclass `schema` out of plain settings under `key`; `what` is what it configures, `example` one of its settings.

    Raises `ValueError` that names the key which is wrong.
    """
    if isinstance(value, schema):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value} is no {what}; give its settings, as in {key}.{example}.")
    names = [item.name for item in fields(schema)]  # pyright: ignore[reportArgumentType]
    if unknown := [name for name in value if name not in names]:
        raise ValueError(f"{key}.{unknown[0]} is no setting of a {what}; choose among {', '.join(names)}.")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), value))
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}.{error.full_key or ''}: {str(error).splitlines()[0]}.") from error
    except ValueError as error:  # a judge's, which knows only the key `reward`, or a task's, which does not know its name
        raise ValueError(str(error).replace("reward.judge.", f"{key}.judge.").replace("tasks.<name>", key)) from error
    assert isinstance(found, schema)
    return found
