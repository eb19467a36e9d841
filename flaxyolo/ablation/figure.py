"""The figure of an ablation: every arm's difference to the baseline with its intervals."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from flaxyolo.ablation.analysis import BETTER, NO_EVIDENCE, WORSE, Analysis
from flaxyolo.base.charts import save_figure

COLOURS = {BETTER: "#2a8f4f", WORSE: "#c8443c", NO_EVIDENCE: "#606162"}
BAND = "#e4e6ea"
DPI = 150
NAME = 28
"""Letters of an arm's name up to which it is written out."""


def draw_differences(analysis: Analysis, path: Path, title: str = "") -> None:
    """Differences of mAP50-95 in points: over seeds (thick), over images (thin)."""
    arms = [one for one in analysis.arms if one.comparison is not None]
    figure = Figure(figsize=(7.6, 1.75 + 0.36 * len(arms)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for row, one in enumerate(arms):
        assert one.comparison is not None
        assert one.image_intervals is not None
        assert one.verdict is not None
        colour = COLOURS[one.verdict.word]
        compared = one.comparison
        reach = 100 * (one.detectable or 0.0)
        axes.add_patch(Rectangle((-reach, row - 0.42), 2 * reach, 0.84, color=BAND, linewidth=0))
        low, high = (100 * end for end in one.image_intervals["map"])
        axes.errorbar(
            (low + high) / 2,
            row + 0.24,
            xerr=(high - low) / 2,
            color=colour,
            linewidth=1,
            capsize=3.5,
        )
        low, high = 100 * compared.low, 100 * compared.high
        # A line's cap would show a wider interval.
        axes.plot([low, high], [row, row], color=colour, linewidth=5, solid_capstyle="butt")
        axes.plot(
            100 * compared.difference, row, "o", color="white", markeredgecolor=colour, markersize=7
        )
        axes.text(
            1.02,
            row,
            one.verdict.word,
            color=colour,
            va="center",
            fontsize=9,
            transform=axes.get_yaxis_transform(),
        )
    axes.axvline(0, color="#101112", linewidth=1, zorder=1)
    names = [one.arm.name for one in arms]
    shown = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in names]
    axes.set_yticks(range(len(arms)), shown, fontsize=9)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.autoscale_view(scaley=False)
    axes.set_xlabel(
        f"mAP50-95 less {analysis.baseline.arm.name}'s, in points "
        f"({len(analysis.seeds)} seeds, {analysis.images} images)",
    )
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    figure.legend(
        handles=[
            Line2D([], [], color="#606162", linewidth=5, label="95 %, seeds"),
            Line2D([], [], color="#606162", linewidth=1, label="95 %, images"),
            Patch(color=BAND, label="would be found with a power below 80 %"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    save_figure(figure, path)
