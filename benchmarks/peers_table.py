"""The results of `benchmarks.peers` as Markdown."""

from typing import Any

from benchmarks.contenders import NET, PICTURES
from benchmarks.results import OVERHEAD, times_as_fast

Run = dict[str, Any]
MEASURES = (*NET, *PICTURES)
WORK = ("decode", "resize", "round trip", "net")
TITLES = ("net only, batch 1", "net only, batch 16", "one by one", "list")


def markdown(runs: list[Run]) -> str:
    """All tables of some runs, as `peers.measure` returns them."""
    return "\n".join(map(_markdown, runs))


def _markdown(run: Run) -> str:
    parts = [
        f"### {run['pictures']['kind'].capitalize()}",
        _machine(run),
        _speeds(run["contenders"]),
        _ratios(run["contenders"]),
        _roofline(run),
        _overhead(run),
        _targets(run["targets"]),
        _failed(run["failed"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(run: Run) -> str:
    machine, pictures = run["machine"], run["pictures"]
    packages = ", ".join(f"{name} {at}" for name, at in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}; {packages}.\n"
        f"{pictures['count']} {pictures['kind']} of {pictures['megapixels'][0]:.1f} to "
        f"{pictures['megapixels'][1]:.1f} Mpx; a list has {pictures['listed']}; "
        f"medians of {run['rounds']} rounds, lowest and highest in "
        f"parentheses.{_others(run)}"
    )


def _others(run: Run) -> str:
    if run["others"] is None:
        return ""
    return f"\nOther work took {100 * run['others']:.0f} % of the machine meanwhile."


def _spread(found: Run | None, digits: int) -> str:
    if not found:
        return ""
    numbers = (found[key] for key in ("median", "min", "max"))
    median, low, high = (f"{number:.{digits}f}" for number in numbers)
    return f"{median} ({low}-{high})"


def _speeds(contenders: Run) -> str:
    titles = [
        "milliseconds a picture",
        *TITLES,
        "peak MB",
        "first score, s",
        "largest score difference, files",
        "of the batch of 16",
    ]
    rows = []
    for name, row in contenders.items():
        peak, differences = row["peak_megabytes"], row["score_difference"]
        files = [differences[key] for key in PICTURES if key in differences]
        rows.append(
            [
                name,
                *(_spread(row["milliseconds"].get(key), 1) for key in MEASURES),
                f"{peak:.0f}" if peak else "",
                _spread(row["first_score_seconds"], 2),
                f"{max(files):.1g}" if files else "",
                f"{differences['net 16']:.1g}" if "net 16" in differences else "",
            ]
        )
    return _table(titles, rows)


def _ratios(contenders: Run) -> str:
    """How many times as fast each of ours is as each peer, in every measure."""
    rows = [
        [f"{name} / {other}", *_times(row, peer)]
        for name, row in contenders.items()
        if row["ours"]
        for other, peer in contenders.items()
        if not peer["ours"]
    ]
    return _table(["times as fast", *TITLES], rows) if rows else ""


def _times(row: Run, peer: Run) -> list[str]:
    ratios = (times_as_fast(row, peer, measure) for measure in MEASURES)
    return ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]


def _roofline(run: Run) -> str:
    rates = "; ".join(
        f"{name.removeprefix('matmul ')} {_spread(rate['gflops'], 0)}"
        for name, rate in run["matmul"].items()
    )
    rows = [
        [name, f"{row['gflops']:.0f}", f"{row['roof_gflops']:.0f}"]
        + [f"{100 * row['share_of_roof']:.0f} %"]
        for name, row in run["contenders"].items()
        if "roof_gflops" in row
    ]
    if not rows:
        return ""
    titles = ["roofline, batch 16", "GFLOP/s", "matrix multiply GFLOP/s", "reached"]
    return f"Matrix multiply, GFLOP/s: {rates}.\n\n{_table(titles, rows)}"


def _overhead(run: Run) -> str:
    titles = [
        "list, milliseconds a picture",
        "wall",
        *(f"{part}, processor" for part in WORK),
        f"wall / (work / cores), at most {OVERHEAD}",
        "bound by",
    ]
    rows = [
        [name, *(f"{row[key]:.1f}" for key in ("wall", *WORK))]
        + [f"{row['ratio']:.2f}", row["bound_by"]]
        for name, row in run["overhead"].items()
    ]
    return _table(titles, rows) if rows else ""


def _targets(found: list[Run]) -> str:
    titles = ["target", "measure", "at least", "reached", "met"]
    rows = [
        [f"{one['name']} / {one['other']}", one["measure"], f"{one['least']:.2f}"]
        + [f"{one['ratio']:.2f}", "yes" if one["met"] else "**no**"]
        for one in found
    ]
    return _table(titles, rows) if rows else ""


def _failed(failed: Run) -> str:
    return "\n".join(f"{name} failed: {reason}" for name, reason in failed.items())
