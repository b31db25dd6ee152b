"""Lazy forwarding of a package's names to their home modules (PEP 562), declared in its own `if TYPE_CHECKING:` block."""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version


def homes(source: str) -> dict[str, tuple[str, str]]:
    """Public name -> (module, name in that module), as declared under `if TYPE_CHECKING:` at the top level of `source`.

    A declaration is an import (`from bon.estimators import best_of_n as best_of_n`) or, to rename, an assignment.

    >>> homes("if TYPE_CHECKING:\\n    import ppo.kl\\n    estimate = ppo.kl.kl_estimate")
    {'estimate': ('ppo.kl', 'kl_estimate')}
    """
    found: dict[str, tuple[str, str]] = {}
    for statement in _type_checking_block(source):
        match statement:
            case ast.ImportFrom(module=str(module), names=aliases):
                found |= {alias.asname or alias.name: (module, alias.name) for alias in aliases}
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(value=home, attr=own_name)):
                found[name] = (ast.unparse(home), own_name)
            case _:  # `import module` for an assignment, and annotations
                pass
    return found


def _type_checking_block(source: str) -> list[ast.stmt]:
    for statement in ast.parse(source).body:
        match statement:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
                return body
            case _:
                pass
    raise ValueError("There is no `if TYPE_CHECKING:` block at the top level; declare the names to forward there.")


def forward(package: str) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of `package`, which calls this while it is being imported.

    A name's home is imported when the name is first used. `__version__` is that of the installed distribution.
    """
    module = sys.modules[package]
    table = homes(inspect.getsource(module))
    names = sorted([*table, "__version__"])

    def get(name: str) -> object:
        if name == "__version__":
            value = version(package)
        elif name in table:
            home, own_name = table[name]
            value = getattr(import_module(home), own_name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(module, name, value)  # the next lookup finds it without calling this
        return value

    return names, get, lambda: sorted({*vars(module), *names})
