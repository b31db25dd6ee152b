"""The picture of self-preference: mean inverse rank of each completion model by base of the reward model (figures 5 and 6)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from evalhooks.report.charts import INK, MIX_COLOURS, STYLE, plain


def write_preference(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws self_preference.png: a panel over all preference data, and one for each of them where several are known."""
    panels = ["", *(found["data"] if len(found["data"]) > 1 else [])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.5, 1.3 * len(found["models"]) + 2), 3.6 * len(panels)), layout="constrained")
        spaces = np.ravel(figure.subplots(len(panels), 1, squeeze=False))
        for axes, data in zip(spaces, panels, strict=True):
            width = 0.8 / len(found["bases"])
            for place, base in enumerate(found["bases"]):
                cells = {cell["model"]: cell for cell in found["cells"] if cell["base"] == base and cell["data"] == data}
                spots = [
                    number + (place - (len(found["bases"]) - 1) / 2) * width
                    for number, model in enumerate(found["models"])
                    if model in cells
                ]
                heights = [cells[model]["inverse_rank"] for model in found["models"] if model in cells]
                errors = [np.nan if cells[model]["sd"] is None else cells[model]["sd"] for model in found["models"] if model in cells]
                tint = MIX_COLOURS[place % len(MIX_COLOURS)]
                label = plain(f"{base} reward models") if not data else None
                axes.bar(spots, heights, width * 0.92, color=tint, label=label, zorder=2)
                axes.errorbar(spots, heights, yerr=errors, fmt="none", color=INK, linewidth=1, capsize=2.5, zorder=3)
            axes.set_xticks(range(len(found["models"])), [plain(model, 22) for model in found["models"]])
            axes.grid(axis="x", visible=False)
            axes.set_ylabel("mean inverse rank")
            axes.set_title(plain(f"Trained on {data}" if data else f"Completions of each model, {found['num_prompts']} prompts", 60))
        figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)
        figure.savefig(folder / "self_preference.png")
    return [folder / "self_preference.png"]
