"""Two tables of scores beside each other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from open_nsfw_tf.cli.app import app
from open_nsfw_tf.tables import Table
from open_nsfw_tf.tables.compare import compare


def table(**scores: float) -> Table:
    nsfw = np.array(list(scores.values()))
    return Table(list(scores), {"nsfw": nsfw}, [None] * len(nsfw), None)


def test_figures() -> None:
    first = table(a=0.1, b=0.2, c=0.35, d=0.4)
    found = compare(first, table(d=0.4, c=0.4, b=0.4, a=0.0), top=2)["nsfw"]
    delta = np.array([0.1, 0.2, 0.05, 0])
    assert found.count == 4
    figures = (found.min, found.max, found.mean, found.median, found.std)
    wanted = (0, 0.2, delta.mean(), np.median(delta), delta.std())
    assert figures == pytest.approx(wanted)
    one, other = [0.1, 0.2, 0.35, 0.4], [0, 0.4, 0.4, 0.4]
    assert found.correlation == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert [path for path, _, _ in found.largest] == ["b", "a"]
    assert found.largest[0] == ("b", 0.2, 0.4)


def test_a_constant_has_no_correlation() -> None:
    found = compare(table(a=0.5, b=0.5), table(a=0.5, b=0.6))["nsfw"]
    assert math.isnan(found.correlation)


def test_rows_that_do_not_match() -> None:
    first = table(a=0.1, b=0.2, c=float("nan"))
    with pytest.raises(
        ValueError, match="second table lacks 2 of 3 pictures, such as b"
    ):
        compare(first, table(a=0.1))
    with pytest.raises(
        ValueError, match="first table lacks 1 of 4 pictures, such as d"
    ):
        compare(first, table(a=0.1, b=0.2, c=0.3, d=0.4))
    with pytest.raises(ValueError, match="first table has no score for 1 pictures"):
        compare(first, table(a=0.1, b=0.2, c=0.3))
    assert compare(first, table(b=0.2, c=0.1), common=True)["nsfw"].count == 1
    with pytest.raises(ValueError, match="no picture has a score nsfw in both"):
        compare(first, table(z=0.2), common=True)


def test_tables_that_cannot_be_compared() -> None:
    twice = Table(["a", "a"], {"nsfw": np.zeros(2)}, [None] * 2, None)
    with pytest.raises(ValueError, match="the first table has a more than once"):
        compare(twice, table(a=0.1))
    other = Table(["a"], {"drawing": np.zeros(1)}, [None], None)
    with pytest.raises(ValueError, match="share no column of scores: nsfw and drawing"):
        compare(table(a=0.1), other)


def test_the_commands_lines_of_json(tmp_path: Path) -> None:
    for name, rows in (
        ("a", "x,0.5,0.25\ny,0.5,0.5\n"),
        ("b", "x,0.5,0.5\ny,0.5,0.5\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(f"path,sfw,nsfw\n{rows}")
    tables = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    done = CliRunner().invoke(app, ["compare", *tables, "--json", "--top", "1"])
    assert done.exit_code == 0, done.output
    sfw, nsfw = map(json.loads, done.stdout.splitlines())
    assert (sfw["column"], sfw["correlation"], sfw["max"]) == ("sfw", None, 0)
    assert (nsfw["column"], nsfw["count"], nsfw["mean"]) == ("nsfw", 2, 0.125)
    assert nsfw["largest"] == [["x", 0.25, 0.5]]


def test_rank_says_what_it_leaves_out(tmp_path: Path) -> None:
    rows = "a,0.5,\nb,nan,\nc,1.5,\nd,0.75,\ne,,cut\n"
    (tmp_path / "t.csv").write_text(f"path,nsfw,error\n{rows}")
    done = CliRunner().invoke(app, ["rank", str(tmp_path / "t.csv")])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["0.750000  d", "0.500000  a"]
    left = "left out: 2 rows without a score of 0 to 1, such as b\n"
    assert done.stderr == left
