"""How long the report of a large study takes, how large its page is, and when a browser has drawn it.

    python -m benchmarks.report --study runs/demo --runs 500

copies the finished reward models of a study under other names, with other scores and learning rates (records, measurements and samples,
no weights), then times `rewardloop report` on the copies as a whole command, and the opening of its page in a headless Chromium.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from core.runs.record import RECORD
from tests.browser import NAMES, open_page

READY = "document.querySelectorAll('.js-plotly-plot .main-svg').length > 8"


def copies(study: Path, out: Path, num_runs: int) -> None:
    """Writes `num_runs` runs into `out`, made from the finished reward models of `study` in turn."""
    found = [folder for folder in sorted(study.glob("rm-*")) if json.loads((folder / RECORD).read_text())["status"] == "finished"]
    if not found:
        raise SystemExit(f"{study} has no finished reward model")
    rng = random.Random(0)
    for number in range(num_runs):
        source = found[number % len(found)]
        record = json.loads((source / RECORD).read_text())
        identity = f"{number:08x}"
        name = f"{record['name']}-copy{number}"
        folder = out / f"rm-{name}-{identity}"
        (folder / "evals").mkdir(parents=True)
        (folder / "samples").symlink_to((source / "samples").absolute())
        shutil.copy(source / "metrics.jsonl", folder)
        shift = rng.uniform(-0.1, 0.1)
        for file in (source / "evals").iterdir():
            if file.suffix == ".json":
                (folder / "evals" / file.name).write_text(json.dumps(_shifted(json.loads(file.read_text()), shift)))
            else:
                (folder / "evals" / file.name).symlink_to(file.absolute())
        record |= {"id": identity, "name": name, "final": _shifted(record["final"], shift), "best": _shifted(record["best"], shift)}
        record["identity"]["optim"]["lr"] *= rng.choice((0.3, 1.0, 3.0))
        record["seed"] = record["identity"]["seed"] = number
        (folder / RECORD).write_text(json.dumps(record))


def _shifted(metrics: dict[str, Any], shift: float) -> dict[str, Any]:
    scores = ("rewardbench2/", "rewardbench1/", "bon/")
    return {key: min(1.0, max(0.0, value + shift)) if key.startswith(scores) else value for key, value in metrics.items()}


def opened(page: Path, chromium: str) -> float:
    """Seconds from asking for the page until its figures are drawn, in the browser with this path."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
        begun = time.perf_counter()
        found = open_page(browser, page.absolute().as_uri())
        found.page.wait_for_function(READY)
        found.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        took = time.perf_counter() - begun
        if found.errors:
            raise SystemExit(f"the page reports errors: {found.errors}")
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="folder of a study with finished reward models")
    parser.add_argument("--runs", type=int, default=500)
    asked = parser.parse_args()
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit(f"no browser: none of {', '.join(NAMES)} is on the PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        copies(asked.study, Path(name) / "many", asked.runs)
        begun = time.perf_counter()
        command = [sys.executable, "-c", "from launch.cli import main; main()", "report", "study=many", f"runs_dir={name}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        page = Path(name) / "many" / "report" / "report.html"
        print(f"{asked.runs} reward models: the report took {took:.1f} s, peak {peak:.2f} GB; page {page.stat().st_size / 1e6:.1f} MB")
        print(f"drawn in Chromium after {opened(page, chromium):.1f} s")


if __name__ == "__main__":
    main()
