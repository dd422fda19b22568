"""A run's results as a drawing: ratios beside their targets, and memory along the writes."""

from __future__ import annotations

from typing import Any, Final

import pygal
from pygal.style import CleanStyle

WIDTH: Final = 900
ROW_HEIGHT: Final = 44
HEAD_HEIGHT: Final = 120
CURVES_HEIGHT: Final = 420
_STYLE: Final = CleanStyle(font_family="sans-serif", value_font_size=11, label_font_size=12)


def ratios_svg(found: dict[str, Any]) -> str:
    """Bars of every row's rate ratio, and of the least that is asked for where there is a target."""
    asked = {t["row"]: t["bound"] for t in found["targets"] if t["figure"] == "rate" and not t["aim"]}
    rows = [row for row in found["rows"] if "rate" in row["ratios"] and not row["failures"]][::-1]
    chart = pygal.HorizontalBar(
        title=f"entries a second, ours over the other side ({found['commit']}, {found['time'][:10]})",
        x_labels=[row["row"] for row in rows],
        height=HEAD_HEIGHT + ROW_HEIGHT * max(1, len(rows)),
        **_options(),
    )
    chart.add("measured", [row["ratios"]["rate"] for row in rows])
    chart.add("asked for", [asked.get(row["row"]) for row in rows])
    return _text(chart)


def memory_svg(found: dict[str, Any]) -> str:
    """Curves of the largest node's resident memory over the writes, one for each side of each row of the group."""
    chart = pygal.XY(
        title="resident MiB of the largest node, by writes",
        height=CURVES_HEIGHT,
        show_dots=False,
        **_options() | {"print_values": False},
    )
    for row in found["rows"]:
        for name, side in row["sides"].items():
            if "samples" in side and not row["failures"]:
                points = [(sample["writes"], max(sample["resident_mib"])) for sample in side["samples"]]
                chart.add(f"{name}, {row['row']}", points)
    return _text(chart)


def _options() -> dict[str, Any]:
    return {
        "width": WIDTH,
        "js": (),
        "no_prefix": True,  # the same figures give the same file
        "style": _STYLE,
        "print_values": True,
        "legend_at_bottom": True,
        "formatter": lambda value: f"{value:.2f}" if value < 100 else f"{value:,.0f}",
    }


def _text(chart: pygal.graph.graph.Graph) -> str:
    """The drawing without the script that pygal puts in for its own tool tips."""
    root = chart.render_tree()
    for parent in root.iter():
        for child in [child for child in parent if str(child.tag).endswith("script")]:
            parent.remove(child)
    return str(pygal.etree.etree.tostring(root, encoding="unicode"))
