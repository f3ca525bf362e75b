"""Timelines as drawings: a step line for each gauge, on one axis of seconds, without anything that has to be loaded."""

from collections.abc import Sequence
from html import escape

from shunter.conformance.core.events import Timeline

__all__ = ["draw"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 150, 44, 22, 10

# Points beyond this add nothing that a screen could show.
MOST_POINTS = 600


def draw(timelines: Sequence[Timeline]) -> str:
    """Return an SVG for all timelines that have points: each scaled to its own greatest value, which stands in its legend."""
    shown = [line for line in timelines if line.points]
    if not shown:
        return ""
    last_s = max(line.points[-1][0] for line in shown) or 1.0
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 16 * len(shown)}" role="img" aria-label="{escape(_told(shown))}">',
        f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - 8}"/>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">0 s</text>',
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{last_s:.2g} s</text>',
    ]
    for at, line in enumerate(shown):
        most = max(0.0, *(value for _, value in line.points)) or 1.0
        step = -(-len(line.points) // MOST_POINTS)
        path = ""
        for seconds, value in line.points[::step]:
            x = LEFT + (WIDTH - LEFT - 8) * seconds / last_s
            y = floor - (floor - TOP) * min(max(value / most, 0.0), 1.0)
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}"
        parts.append(f'<path class="line line-{at % 4}" d="{path}"/>')
        y = HEIGHT + 16 * at + 8
        parts.append(
            f'<path class="line line-{at % 4}" d="M{LEFT} {y - 4}h18"/><text x="{LEFT + 24}" y="{y}">{_legend(line)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _legend(line: Timeline) -> str:
    return f"{escape(line.name)}, up to {max(value for _, value in line.points):g} ({len(line.points)} samples)"


def _told(lines: Sequence[Timeline]) -> str:
    return "; ".join(f"{line.name} up to {max(value for _, value in line.points):g}" for line in lines)
