"""draw_dashboards.py ANSWERS DASHBOARDS IMAGES: draws each dashboard as Grafana lays it out, from the answers that
tests/integration/operate.rs wrote down. An approximation with matplotlib, and each picture says so."""

import json
import math
import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

BACK, PANEL, TEXT, DIM, GRID = "#111217", "#181b1f", "#d8d9da", "#8e8e8e", "#2c3235"
COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffee52", "#96d98d", "#ffb357"]
NAMED = {"red": "#f2495c", "orange": "#ff9830", "green": "#73bf69", "blue": "#5794f2", "purple": "#b877d9",
         "transparent": PANEL}
MOST_LEGEND = 6
# Pixels of a column and of a row of Grafana's grid, at 100 dots an inch.
COLUMN, ROW, DPI = 46, 22, 100
NOTE = "drawn from query results, not by Grafana"


def number(value, unit):
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s":
        if value and abs(value) < 0.001:
            return f"{value * 1e6:.3g} µs"
        return f"{value * 1e3:.3g} ms" if abs(value) < 1 and value else f"{value:.3g} s"
    if unit == "currencyUSD":
        return f"${value:.3g}"
    if unit == "bytes":
        for name in ("B", "KiB", "MiB", "GiB"):
            if abs(value) < 1024 or name == "GiB":
                return f"{value:.3g} {name}"
            value /= 1024
    suffix = {"reqps": " req/s", "celsius": " °C", "watt": " W", "joule": " J"}.get(unit, "")
    return f"{value:.4g}{suffix}"


def named(legend, metric):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: metric.get(match[1], ""), legend)


def lines(answers):
    """(name, times, values) of every series, numbers only."""
    for query in answers:
        for one in query["series"]:
            points = [(time, float(value)) for time, value in one["values"]]
            points = [(time, value) for time, value in points if math.isfinite(value)]
            if points:
                times, values = zip(*points)
                yield named(query["legend"], one["metric"]), times, values


def threshold(steps, value):
    color = TEXT
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            color = NAMED.get(step["color"], TEXT)
    return color


def broken(times, values, gap=2.5):
    """Where nothing was measured, no line."""
    xs, ys = [], []
    for index, (time, value) in enumerate(zip(times, values)):
        if index and time - times[index - 1] > gap:
            xs.append(time)
            ys.append(math.nan)
        xs.append(time)
        ys.append(value)
    return xs, ys


def draw_lines(axes, panel, answers, span, marks):
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    began = span[0]
    found = list(lines(answers))
    for index, (name, times, values) in enumerate(found):
        xs, ys = broken([time - began for time in times], values)
        color = COLORS[index % len(COLORS)]
        label = f"{name}" if index < MOST_LEGEND else None
        axes.plot(xs, ys, color=color, linewidth=0.9, label=label, marker="." if len(values) < 4 else None, markersize=2)
        if len(found) <= 3:
            axes.fill_between(xs, ys, alpha=0.12, color=color, linewidth=0)
    for x, color in marks:
        axes.axvline(x, color=NAMED.get(color, color), linewidth=0.5, linestyle=(0, (2, 2)), alpha=0.7)
    defaults = panel["fieldConfig"]["defaults"]
    for step in defaults.get("thresholds", {}).get("steps", []) if found else []:
        top = max(max(values) for _, _, values in found)
        if step["value"] is not None and step["value"] <= top * 1.3:
            axes.axhline(step["value"], color=NAMED.get(step["color"], DIM), linewidth=0.5, linestyle="--")
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    axes.set_xlim(0, span[1] - began)
    names = {int(value): look["text"] for mapping in defaults.get("mappings", []) for value, look in mapping["options"].items()}
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=bool(names)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: names.get(int(value), "") if names else number(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    axes.tick_params(colors=DIM, labelsize=5, length=0, pad=2)
    axes.grid(color=GRID, linewidth=0.4)
    if found:
        rest = len(found) - MOST_LEGEND
        title = f"and {rest} more" if rest > 0 else None
        legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=3, fontsize=4.6, frameon=False,
                             labelcolor=DIM, handlelength=1, columnspacing=1, title=title, title_fontsize=4.6)
        legend.get_title().set_color(DIM)


def draw_states(axes, panel, answers, span):
    began = span[0]
    rows = [(name, times, values) for name, times, values in lines(answers) if max(values) > 0]
    for index, (name, times, values) in enumerate(rows):
        bars = [(time - began, 1.05) for time, value in zip(times, values) if value == 1]
        axes.broken_barh(bars, (index - 0.4, 0.8), color=COLORS[index % len(COLORS)], linewidth=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_xlim(0, span[1] - began)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}"))
    axes.tick_params(colors=DIM, labelsize=5.5, length=0)


def draw_words(axes, panel, answers):
    """Figures, or lines of a table."""
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    unit, steps = defaults.get("unit", ""), defaults.get("thresholds", {}).get("steps", [])
    names = {int(value): look["text"] for mapping in defaults.get("mappings", []) for value, look in mapping["options"].items()}
    found = [(name, values[-1]) for name, _, values in lines(answers)]
    if panel["type"] == "table":
        words = sorted({name for name, _ in found})
        for index, word in enumerate(words[:10]):
            axes.text(0.02, 0.92 - index * 0.1, word, color=TEXT, fontsize=6, transform=axes.transAxes, va="top")
        return
    if panel["type"] == "bargauge":
        found = [(name, value) for name, value in found if value > 0][:9]
        top = max((value for _, value in found), default=1)
        for index, (name, value) in enumerate(found):
            y = 0.95 - index * 0.105
            axes.barh(y - 0.05, value / top * 0.45, left=0.36, height=0.06, color=COLORS[0])
            axes.text(0.35, y - 0.05, name, color=DIM, fontsize=5.5, ha="right", va="center")
            axes.text(0.37 + value / top * 0.45, y - 0.05, number(value, unit), color=TEXT, fontsize=5.5, va="center")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        return
    count = max(len(found), 1)
    for index, (name, value) in enumerate(found[:6]):
        x = (index + 0.5) / min(count, 6)
        word = names.get(int(value), number(value, unit)) if names else number(value, unit)
        size = 13 if count == 1 else max(6.5, 11 - count)
        axes.text(x, 0.55, word, color=threshold(steps, value), fontsize=size, ha="center", va="center", transform=axes.transAxes)
        if count > 1:
            axes.text(x, 0.15, name, color=DIM, fontsize=5, ha="center", transform=axes.transAxes)


def marks_of(answers, began):
    found = []
    for key, query in answers.items():
        if key.startswith("mark "):
            for one in query["series"]:
                last = None
                for time, _ in one["values"]:
                    if last is None or time - last > 2.5:
                        found.append((time - began, query["color"]))
                    last = time
    return found


def span_of(every):
    times = [point[0] for answers in every.values() for key, queries in answers.items() if not key.startswith("mark ")
             for query in queries for one in query["series"] for point in one["values"] if len(one["values"]) > 2]
    return min(times), max(times)


def draw(board, answers, span, path):
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    width, height = 24 * COLUMN, (rows + 2) * ROW
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACK)
    figure.text(8 / width, 1 - 18 / height, board["title"], color=TEXT, fontsize=10, va="center", weight="bold")
    figure.text(1 - 8 / width, 1 - 18 / height, NOTE, color="#ff9830", fontsize=8, va="center", ha="right")
    marks = marks_of(answers, span[0])
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN, (place["y"] + 1.6) * ROW
        w, h = place["w"] * COLUMN, place["h"] * ROW
        if panel["type"] == "row":
            figure.text((x + 8) / width, 1 - (y + h / 2) / height, panel["title"], color=TEXT, fontsize=7.5, va="center")
            continue
        box = (x + 3) / width, 1 - (y + h - 3) / height, (w - 6) / width, (h - 6) / height
        figure.patches.append(plt.Rectangle(box[:2], box[2], box[3], transform=figure.transFigure, facecolor=PANEL,
                                            edgecolor=GRID, linewidth=0.5, zorder=-1))
        figure.text((x + 10) / width, 1 - (y + 12) / height, panel["title"], color=TEXT, fontsize=6.5, va="center")
        lined = panel["type"] in ("timeseries", "state-timeline")
        left, below, above = (62, 34, 24) if panel["type"] == "timeseries" else (90, 18, 24) if lined else (8, 6, 22)
        inner = ((x + left) / width, 1 - (y + h - below) / height, (w - left - 14) / width, (h - below - above) / height)
        axes = figure.add_axes(inner, facecolor=PANEL)
        for side in axes.spines.values():
            side.set_visible(False)
        panel_answers = answers[str(panel["id"])]
        if panel["type"] == "timeseries":
            draw_lines(axes, panel, panel_answers, span, marks)
        elif lined:
            draw_states(axes, panel, panel_answers, span)
        else:
            draw_words(axes, panel, panel_answers)
    figure.savefig(path, facecolor=BACK)
    plt.close(figure)
    # A palette is enough, and a third of the size.
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    answers, dashboards, images = (pathlib.Path(argument) for argument in sys.argv[1:4])
    every = json.loads(answers.read_text())
    images.mkdir(parents=True, exist_ok=True)
    span = span_of(every)
    for name, board_answers in every.items():
        board = json.loads((dashboards / f"{name}.json").read_text())
        path = images / f"dashboard-{name}.png"
        draw(board, board_answers, span, path)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
