"""A revision's scores in the hub's own format."""

import re

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from core.data.hub import HubId
from evalhooks.measured_rows import rows_text
from evalhooks.rewardbench.domains import DOMAINS, OVERALL
from launch.publish.facts import version_of
from launch.publish.revisions import Revision

_COMMIT = re.compile(r"[0-9a-f]{40}")


def results(revision: Revision) -> str:
    """The scores on RewardBench 2 for `.eval_results/`, as YAML; empty if the benchmark is no dataset of the hub."""
    if not revision.benchmark or not revision.scores:
        return ""
    hub = HubId.parse(revision.rows)
    commit = hub.revision if hub and hub.revision and _COMMIT.fullmatch(hub.revision) else None
    notes = (
        f"checkpoint at step {revision.step}, {measured_rows(revision)}, in points of 100; measured by rewardloop {version_of(revision)}"
    )
    entries = [
        EvalResultEntry(
            dataset_id=revision.benchmark,
            task_id=key,
            value=round(100 * value, 2),
            dataset_revision=commit,
            date=str(revision.record.get("finished") or "") or None,
            notes=notes,
        )
        for key, value in revision.scores.items()
        if key == OVERALL or key in DOMAINS
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000)


def measured_rows(revision: Revision) -> str:
    """How much of RewardBench 2 was measured."""
    limit, budget = revision.job.hooks.limit, rows_text(revision.record, "rewardbench2")
    rows = "all rows" if limit == 1 else f"{limit:.0%} of the rows of every domain"
    return f"{budget}, drawn from every domain," if budget else rows
