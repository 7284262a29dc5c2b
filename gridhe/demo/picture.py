"""The load profile as a picture, from released totals: the grid, its feeders, and the spread of homes."""

from collections.abc import Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridhe.demo.profile import GroupProfile
from gridhe.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Okabe and Ito's palette, distinguishable with colour blindness and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#8C6D31")
_INK = "#22303C"
_GRID = "#3B6E8F"
# Labels of ticks a year, month, day, hour, minute or second apart; and of the first of the next wider unit.
_TICKS = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
_FIRST_TICKS = ["%Y", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M:%S"]
_NAMED_MAX = 16  # more feeders than this get one colour and one label


def draw(path: Path, grid: GroupProfile, feeders: Sequence[GroupProfile], *, title: str, note: str) -> None:
    """Write the picture as PNG. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")  # needs no display
        from matplotlib import dates
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib: pip install 'gridhe[demo]'") from error
    style: Any = {
        "font.size": 10,
        "axes.edgecolor": "#9AA5AE",
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#E3E7EA",
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            3, 1, figsize=(12, 10), sharex=True, height_ratios=(1.0, 1.0, 1.1), layout="constrained"
        )
        try:
            _grid_panel(axes[0], grid)
            _feeder_panel(axes[1], feeders)
            _home_panel(axes[2], grid)
            untyped: Any = dates
            locator = untyped.AutoDateLocator(tz=UTC)
            axes[2].xaxis.set_major_locator(locator)
            axes[2].xaxis.set_major_formatter(
                untyped.ConciseDateFormatter(
                    locator, tz=UTC, formats=_TICKS, zero_formats=_FIRST_TICKS, show_offset=False
                )
            )
            first, last = (f"{moment:%d %b %Y}" for moment in (grid.times[0], grid.times[-1]))
            axes[2].set_xlabel(f"time, UTC ({first})" if first == last else f"time, UTC ({first} to {last})")
            axes[2].set_xlim(_edges(grid)[0], _edges(grid)[-1])
            for axis in axes:
                # Outside of the plot, so that it hides no line.
                axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0.0)
            figure.align_ylabels(axes)
            figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
            figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color="#5B6770")
            figure.savefig(path, dpi=120, metadata={"Software": None})
        finally:
            plt.close(figure)


def _edges(profile: GroupProfile) -> list[Any]:
    """The T + 1 edges of T intervals: a reading is for its whole interval, so it is drawn as a step."""
    times = profile.times
    return [*times, times[-1] + timedelta(seconds=profile.interval_s)]


def _grid_panel(axis: "Axes", grid: GroupProfile) -> None:
    edges: Any = _edges(grid)
    axis.stairs(grid.load_kw, edges, fill=True, color=_GRID, alpha=0.25)
    axis.stairs(grid.load_kw, edges, color=_GRID, linewidth=1.6, label=f"grid ({grid.meters} meters)")
    when, peak_kw = grid.peak
    axis.plot(
        [when + (edges[1] - edges[0]) / 2],
        [peak_kw],
        "o",
        color="#D55E00",
        markersize=6,
        label=f"peak {peak_kw:,.1f} kW\n{when:%d %b %H:%M}",
    )
    axis.set_ylabel("load, kW")
    axis.set_ylim(bottom=0)
    axis.set_title("The grid", loc="left", fontsize=11)


def _feeder_panel(axis: "Axes", feeders: Sequence[GroupProfile]) -> None:
    named = len(feeders) <= _NAMED_MAX
    for at, feeder in enumerate(feeders):
        label = (
            f"{feeder.group} ({feeder.meters})" if named else f"{len(feeders)} feeders" if at == 0 else None
        )
        colour = _COLOURS[at % len(_COLOURS)] if named else _GRID
        dashed = "--" if named and at >= len(_COLOURS) else "-"
        edges: Any = _edges(feeder)
        axis.stairs(
            feeder.load_kw, edges, color=colour, linewidth=1.3, linestyle=dashed,
            alpha=1.0 if named else 0.35, label=label, baseline=None,
        )  # fmt: skip
    axis.set_ylabel("load, kW")
    axis.set_ylim(bottom=0)
    axis.set_title("Feeders", loc="left", fontsize=11)


def _home_panel(axis: "Axes", grid: GroupProfile) -> None:
    edges: Any = _edges(grid)
    unit = grid.kw_per_unit
    mean = grid.mean_per_interval * unit
    extremes = grid.extremes()
    if extremes is not None:
        axis.stairs(
            extremes[1] * unit, edges, baseline=extremes[0] * unit, fill=True, color="#56B4E9", alpha=0.22,
            label="lowest to highest home\n(to one bin)",
        )  # fmt: skip
    spread = grid.spread_per_interval
    if spread is not None:
        axis.stairs(
            mean + spread * unit, edges, baseline=(mean - spread * unit).clip(min=0), fill=True,
            color="#0072B2", alpha=0.30, label="mean ± one standard deviation",
        )  # fmt: skip
    axis.stairs(mean, edges, color=_INK, linewidth=1.6, baseline=None, label="mean home")
    axis.set_ylabel("load per home, kW")
    axis.set_ylim(bottom=0)
    axis.set_title("One home: mean and spread, without identifying any home", loc="left", fontsize=11)
