"""Plots of each suite, from its records."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gridhe.bench.record import Record
from gridhe.bench.record_table import figure as number

__all__ = ["Plot", "draw"]

_COLOURS = ("#1b6ca8", "#e07a1f", "#3a8f5c", "#8a4fa3", "#b23a48", "#6b7280", "#c9a227", "#2a9d8f")
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot in a file."""

    suite: str
    title: str
    path: Path


Points = dict[str, list[tuple[float, float]]]


def draw(records: Sequence[Record], folder: Path) -> list[Plot]:
    """Draw the plots of every suite in these records, as PNG files in `folder`."""
    made = []
    for suite, pictures in _PICTURES.items():
        mine = [record for record in records if record.suite == suite]
        for name, title, paint in pictures if mine else ():
            with mpl.rc_context(_STYLE):
                picture = Figure(figsize=(8.0, 4.2), layout="constrained")
                axes = picture.add_subplot()
                if not paint(axes, mine):
                    continue
                axes.set_title(title, loc="left", fontsize=10)
                path = folder / f"{suite}-{name}.png"
                picture.savefig(path, dpi=144)
            made.append(Plot(suite=suite, title=title, path=path))
    return made


def _bars(axes: Axes, bars: Sequence[tuple[str, float, str]], unit: str, *, log: bool = True) -> bool:
    """Draw horizontal bars (label, value, colour), the first at the top; False if there are none."""
    bars = [bar for bar in bars if bar[1] > 0]
    if not bars:
        return False
    places = range(len(bars))
    axes.barh(
        list(places), [value for _, value, _ in bars], color=[colour for *_, colour in bars], height=0.7
    )
    axes.set_yticks(list(places), [label for label, *_ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if log:
        axes.set_xscale("log")
        low = min(value for _, value, _ in bars)
        axes.set_xlim(10 ** math.floor(math.log10(low) - 0.1), max(value for _, value, _ in bars) * 8)
    else:
        axes.set_xlim(0, max(value for _, value, _ in bars) * 1.15)
    for place, (_, value, _) in zip(places, bars, strict=True):
        axes.annotate(
            number(value), (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xlabel(unit)
    return True


def _lines(axes: Axes, points: Points, x: str, y: str, *, log_y: bool = True) -> bool:
    """Draw lines over a logarithmic x axis with ticks at the measured values; False if there are none."""
    points = {name: sorted(line) for name, line in points.items() if line}
    if not points:
        return False
    for index, (name, line) in enumerate(points.items()):
        axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=name, color=_COLOURS[index % 8])
    axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    places = sorted({place for line in points.values() for place, _ in line})
    axes.set_xticks(places, [f"{place:,.0f}" if place >= 1 else f"{place:g}" for place in places])
    axes.xaxis.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(points) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return True


def _micro(axes: Axes, records: Sequence[Record]) -> bool:
    bars = []
    for record in records:
        if record.metric == "time" and record.preset in ("4096-96k", ""):
            theirs = record.case.startswith(("tenseal", "numpy", "seal-python"))
            value = record.figures.median * {"us": 1.0, "ms": 1e3, "s": 1e6}[record.unit]
            bars.append((record.case, value, _COLOURS[5] if theirs else _COLOURS[0]))
    return _bars(axes, sorted(bars, key=lambda bar: bar[1]), "µs, median, logarithmic; grey: not gridhe")


def _peers(what: str, unit: str) -> Callable[[Axes, Sequence[Record]], bool]:
    def paint(axes: Axes, records: Sequence[Record]) -> bool:
        bars = [
            (record.case, record.figures.median, _COLOURS[0] if record.case == "gridhe" else _COLOURS[5])
            for record in records
            if record.metric == what
        ]
        return _bars(axes, sorted(bars, key=lambda bar: bar[1]), unit)

    return paint


def _service(axes: Axes, records: Sequence[Record]) -> bool:
    colours = {"gridhe": _COLOURS[0], "paho": _COLOURS[5], "mosquitto_sub": "#b8bdc6"}
    bars = []
    for record in records:
        if record.metric == "rate":
            groups, _, who = record.case.rpartition(" ")
            size = record.preset.rpartition("-")[2].removesuffix("k")
            label = f"{size} KB, {groups if groups != '1 groups' else '1 group'}: {who}"
            bars.append((label, record.figures.median, colours[who]))
    picture = axes.get_figure(root=True)
    if picture is not None:
        picture.set_figheight(max(3.0, 0.28 * len(bars) + 1.2))
    return _bars(axes, bars, "batches per second, median of the turns", log=False)


def _security(axes: Axes, records: Sequence[Record]) -> bool:
    rings = {"light": 4_096, "medium": 8_192, "strong": 16_384, "maximum": 32_768}
    points: Points = {}
    for record in records:
        if record.metric == "time" and record.preset in rings:
            points.setdefault(record.case, []).append((rings[record.preset], record.figures.median))
    return _lines(axes, points, "ring degree (light, medium, strong, maximum)", "ms, median")


def _batch_size(metric: str, unit: str) -> Callable[[Axes, Sequence[Record]], bool]:
    def paint(axes: Axes, records: Sequence[Record]) -> bool:
        points: Points = {}
        for record in records:
            if record.metric == metric:
                place = float(record.case.partition(" ")[0])
                points.setdefault(record.preset, []).append((place, record.figures.median))
        return _lines(axes, points, "readings in a batch", unit)

    return paint


def _scale(unit: str, **metrics: str) -> Callable[[Axes, Sequence[Record]], bool]:
    """Plot metrics over the number of meters. `metrics`: label=name in the records."""

    def paint(axes: Axes, records: Sequence[Record]) -> bool:
        points: Points = {}
        for name, metric in metrics.items():
            for record in records:
                if record.metric == metric:
                    place = float(record.case.partition(" ")[0])
                    label = f"{record.preset}, {name}" if len(metrics) > 1 else record.preset
                    points.setdefault(label, []).append((place, record.figures.median))
        return _lines(axes, points, "distinct meters", unit, log_y=False)

    return paint


def _over_cases(metric: str, x: str, unit: str, *, log_y: bool) -> Callable[[Axes, Sequence[Record]], bool]:
    """Plot a metric of cases whose names begin with a number, one line for each remainder of the name."""

    def paint(axes: Axes, records: Sequence[Record]) -> bool:
        points: Points = {}
        for record in records:
            if record.metric == metric:
                place, _, rest = record.case.partition(" ")
                points.setdefault(rest, []).append((float(place), record.figures.median))
        return _lines(axes, points, x, unit, log_y=log_y)

    return paint


_PICTURES: dict[str, tuple[tuple[str, str, Callable[[Axes, Sequence[Record]], bool]], ...]] = {
    "micro": (("steps", "Each step alone (96 KB ring)", _micro),),
    "peers": (
        (
            "seal",
            "A batch of 512 readings (1,024 numbers), at the meter",
            _peers("encrypt+serialize", "µs a batch, logarithmic"),
        ),
        ("add", "The same batch, at the aggregator", _peers("load+add", "µs a batch, logarithmic")),
        (
            "size",
            "A batch of 512 readings (1,024 numbers), on the wire",
            _peers("size", "bytes for each number, logarithmic"),
        ),
    ),
    "security": (("rings", "The cost of a larger ring (TenSEAL, one thread)", _security),),
    "batch-size": (
        ("time", "Time to seal, for each reading", _batch_size("time", "ms for each reading")),
        ("bytes", "Bytes on the wire, for each reading", _batch_size("size", "bytes for each reading")),
    ),
    "service": (("rate", "Committed batches with receipts, against bare subscribers", _service),),
    "scale": (
        ("time", "Time of a batch, commit included", _scale("µs", time="time per batch")),
        ("memory", "Memory of the process", _scale("MB", resident="resident", peak="peak")),
    ),
    "meters": (
        (
            "latency",
            "From a window's end to its released totals",
            _over_cases("latency", "meters", "s", log_y=False),
        ),
    ),
    "intervals": (
        (
            "latency",
            "From a window's end to its released totals",
            _over_cases("latency", "seconds from reading to reading", "s", log_y=False),
        ),
    ),
}
