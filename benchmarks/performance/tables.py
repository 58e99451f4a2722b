"""Make Markdown tables of ratios, of slopes, and of what a 70B would take."""

from __future__ import annotations

from performance.goals import Line, Ratio


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def table_of(ratios: list[Ratio]) -> str:
    """Return ratios as a table: their median, and the least and the most of the turns."""
    rows = []
    for ratio in ratios:
        turns = f"{min(ratio.turns):.2f}–{max(ratio.turns):.2f}" if len(ratio.turns) > 1 else ""
        missed = " (missed)" if ratio.misses() else ""
        goal = f"{ratio.said_of_goal()}{missed}"
        rows.append([ratio.work, ratio.beside, f"**{ratio.median:.2f}**", turns, goal])
    return markdown(["", "beside", "ratio", "turns", "goal"], rows)


def growth_table(lines: list[Line]) -> str:
    """Return the slopes of time."""
    rows = []
    for line in lines:
        if "growth" in line:
            slopes = [
                f"{line[of]['slope']:.2f} ({line[of]['low']:.2f}–{line[of]['high']:.2f})"
                for of in ("lens", "floor")
            ]
            sizes = f"{line['sizes'][0]:,}–{line['sizes'][-1]:,}"
            rows.append([line["growth"], sizes, *slopes])
    return markdown(["time grows with", "sizes", "slope of the lens", "of the floor"], rows)


def estimate_table(lines: list[Line]) -> str:
    """Return what a 70B would take, from shapes alone."""
    rows = []
    assuming = ""
    for line in lines:
        if "estimate" in line:
            row = [
                line["estimate"],
                f"{line['jobs']:,}",
                f"{line['up_mb']:,} MB",
                f"{line['back_mb']:,} MB",
                f"{line['server_memory_mb']:,.0f} MB",
                "not known" if line["work_s"] is None else f"{line['work_s']:,} s",
                f"{line['way_s']:,} s",
            ]
            rows.append(row)
            assuming = f"{line['model']}, {line['weights_gb']} GB of weights; {line['assuming']}."
    heads = ["", "jobs", "sent", "back", "memory beside the weights", "work", "on the way"]
    return f"{assuming}\n\n{markdown(heads, rows)}"
