"""What the page of the study of densities tells of particles: a table, and a picture."""

from pathlib import Path

import numpy as np

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.densities.particle_tasks import BINS, TASKS
from tarflow.ablation.marked_page import NOTHING, markdown
from tarflow.ablation.ways_table import told
from tarflow.evaluation.figures import new_figure
from tarflow.machine.files import replacing

PARTICLES_PICTURE = "particles.png"
PARTICLES_WORDS = "Distances between particles: chains, flows, and what weights and annealing make"
ENOUGH = {"DW-4": 0.5}
"""Effective sample sizes that are to be reached."""
FITTED = {"samples": "samples of the chains", "energy": "the energy alone"}
"""What flows are fitted to, by variants."""
COLUMNS = {
    "effective samples": "effective_sample_size",
    "covered": "covered",
    "annealed": "annealed/effective_sample_size",
    "stages": "annealed/stages",
    "gap, drawn": "gaps/flow",
    "weighted": "gaps/weighted",
    "after annealing": "gaps/annealed",
    "energy": "energies/annealed",
    "of chains": "truth/energy",
    "fit, s": "seconds",
}
"""Where a run has the numbers of a row."""
LINES = {"flow": "drawn", "weighted": "weighted", "annealed": "annealed"}


def particle_blocks(results: Results) -> dict[str, str]:
    """The tables of particles, and their picture."""
    kinds = [(name, kind) for name in data_of(results) if name in TASKS for kind in FITTED]
    if not kinds:
        return dict.fromkeys(("particles", "particle_targets", "particle_plot"), NOTHING)
    rows, targets = [], []
    for name, kind in kinds:
        cells = [told(Quantity(kind, path).spread(results, name)) for path in COLUMNS.values()]
        found = Quantity(kind, "effective_sample_size").spread(results, name)
        if found is None:
            continue
        rows.append([name, FITTED[kind], *cells])
        if name in ENOUGH:
            outcome = "reached" if found[0] >= ENOUGH[name] else "**missed**"
            wanted = f"effective sample size at least {ENOUGH[name]}"
            targets.append([f"{name}, {FITTED[kind]}", wanted, told(found), outcome])
    tables = {
        "particles": markdown(["", "fitted to", *COLUMNS], *rows),
        "particle_targets": markdown(["", "target", "found", ""], *targets),
    }
    return {**tables, "particle_plot": f"![{PARTICLES_WORDS}](images/{PARTICLES_PICTURE})"}


def draw_particles(path: Path, results: Results) -> Path | None:
    """Draw the distances between particles, a panel for each system and kind of fit.

    Args:
        path: The picture.
        results: What the runs have left; the first seed of each is drawn.

    Returns:
        The picture; None where there are no particles.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    found = {}
    for result in results:
        settings = result["settings"]
        if settings["data"] in TASKS:
            found.setdefault((settings["data"], settings["variant"]), result["histograms"])
    if not found:
        return None
    figure = new_figure(figsize=(4.2 * len(found), 3.0))
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, ((name, kind), shares) in zip(panels, found.items(), strict=True):
        reach = TASKS[name].reach
        middles = (np.arange(BINS) + 0.5) * reach / BINS
        density = {part: np.array(each) * BINS / reach for part, each in shares.items()}
        axes.fill_between(middles, density["truth"], color="0.8", label="chains", step="mid")
        for part, words in LINES.items():
            axes.plot(middles, density[part], label=words, linewidth=1.2)
        axes.set_title(f"{name}, from {FITTED[kind]}", fontsize=9)
        axes.set_xlabel("distance between particles")
        axes.set_ylim(0, 1.15 * max(density["truth"].max(), density["weighted"].max()))
        axes.set_yticks([])
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=80, format="png", metadata={"Software": None})
    return path
