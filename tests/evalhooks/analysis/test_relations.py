"""The parts of the reward models that correlations are also given for."""

from evalhooks.analysis.relations import parts, relation
from evalhooks.analysis.table import Group, ScoredModel, ScoreTable

GROUPS = ("mine", Group.off_policy, Group.on_policy, Group.controls, Group.on_policy)
MODELS = [ScoredModel(name=str(k), facts={"group": group}, scores={"rb2": float(k), "bon": float(k * k)}) for k, group in enumerate(GROUPS)]


def test_parts_are_all_those_without_controls_the_upper_half_with_the_median_and_the_groups_in_their_usual_order() -> None:
    found = {name: [model.name for model in members] for name, members in parts(MODELS, "rb2")}
    assert list(found.items()) == [
        ("", ["0", "1", "2", "3", "4"]),
        ("without controls", ["0", "1", "2", "4"]),
        ("upper half", ["2", "3", "4"]),
        ("on-policy", ["2", "4"]),
        ("off-policy", ["1"]),
        ("controls", ["3"]),
        ("mine", ["0"]),
    ]


def test_each_part_has_a_correlation_of_its_own_under_its_key() -> None:
    found = relation(ScoreTable(sources=(), models=tuple(MODELS), notes=()), "rb2", "bon")
    counts = {"rb2~bon": 5, "rb2~bon (without controls)": 4, "rb2~bon (upper half)": 3, "rb2~bon (on-policy)": 2}
    assert {key: found[key].n for key in counts} == counts
