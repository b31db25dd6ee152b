"""Functions of users that fail or return what is no score, as verifiers of tasks, as rewards and as verifiers that reward."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.faults.inputs.trial import Expected, Trial
from tests.faults.jobs import BON, PPO, world_of
from tests.faults.stage import Stage

R, A = Expected.refused, Expected.accepted

RETURNS: Mapping[str, tuple[str, Expected, Expected]] = {
    "None": ("None", R, R),
    "NaN": ("float('nan')", R, R),
    "infinity": ("float('inf')", R, R),
    "a text": ("'good'", R, R),
    "a list": ("[1.0]", R, R),
    "complex": ("1j", R, R),
    "100.0": ("100.0", R, A),
    "-1.0": ("-1.0", R, A),
    "True": ("True", A, A),
    "numpy.float32": ("__import__('numpy').float32(0.5)", A, A),
    "numpy.bool": ("__import__('numpy').bool_(True)", A, A),
    "numpy array of one": ("__import__('numpy').array(0.5)", A, A),
    "torch scalar": ("__import__('torch').tensor(0.5)", A, A),
    "torch NaN": ("__import__('torch').tensor(float('nan'))", R, R),
    "torch vector": ("__import__('torch').ones(3)", R, R),
    "numpy.float64 NaN": ("__import__('numpy').float64('nan')", R, R),
    "Decimal": ("__import__('decimal').Decimal('0.5')", A, A),
    "Fraction": ("__import__('fractions').Fraction(1, 2)", A, A),
}
"""What a function returns, and what comes of it for a verifier and for a reward."""

RAISES: Mapping[str, str] = {
    "a KeyError": "return reference['no such key']",
    "a ZeroDivisionError": "return 1 / 0",
    "an AttributeError": "return completion.no_such_attribute",
    "an exception of its own": "raise type('Own', (Exception,), {})('not today')",
    "an AssertionError": "assert False, 'never'",
    "an empty exception": "raise RuntimeError",
    "a message of control characters": "raise ValueError('\\x1b[31mred')",
}

NAMES: Mapping[str, str] = {
    "without a colon": "given.judge",
    "of no module": "no_such_module:judge",
    "of no function": "given:no_such_function",
    "of no callable": "given:NUMBER",
    "of a broken module": "given_broken:judge",
    "of a module that raises": "given_raising:judge",
    "of a module that exits": "given_exiting:judge",
    "with two colons": "given:judge:more",
    "empty before the colon": ":judge",
    "empty after the colon": "given:",
    "a path": "./given.py:judge",
}

USES: Mapping[str, Callable[[Stage, str], Sequence[str]]] = {
    "verifier of ppo": lambda stage, name: [
        *("ppo", *world_of(stage), *PPO, f"reward.path={stage.reward_model}", f"tasks.gsm8k.verifier='{name}'")
    ],
    "verifier of bon": lambda stage, name: ["bon", *world_of(stage), *BON, "pools=runs/pools", f"tasks.gsm8k.verifier='{name}'"],
    "reward=verifier": lambda stage, name: [
        *("ppo", *world_of(stage), *PPO, "reward=verifier", f"reward.verifier='{name}'", f"prompts=[{stage.task}]")
    ],
}


def program_trials(stage: Stage) -> list[Trial]:
    """Every function in every use."""
    trials: list[Trial] = []
    for use in USES:
        rewards = use == "reward=verifier"
        for what, (value, of_verifier, of_reward) in RETURNS.items():
            expected = of_reward if rewards else of_verifier
            trials.append(_trial(stage, use, f"returns {what}", f"return {value}", expected, "given:judge"))
        for what, body in RAISES.items():
            trials.append(_trial(stage, use, f"raises {what}", body, R, "given:judge"))
        for what, name in NAMES.items():
            trials.append(_trial(stage, use, f"a name {what}", "return 1.0", R, name))
    return trials


def _trial(stage: Stage, use: str, what: str, body: str, expected: Expected, name: str) -> Trial:
    def arguments(folder: Path) -> Sequence[str]:
        (folder / "given.py").write_text(f"NUMBER = 3\n\n\ndef judge(completion, reference):\n    {body}\n")
        (folder / "given_broken.py").write_text("def judge(completion reference):\n")
        (folder / "given_raising.py").write_text("raise RuntimeError('not today')\n")
        (folder / "given_exiting.py").write_text("raise SystemExit(0)\n")
        return USES[use](stage, name)

    return Trial(name=f"programs {use}/{what}", arguments=arguments, expected=expected, words=(name,))
