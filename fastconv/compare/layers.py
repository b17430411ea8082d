"""Workloads: named lists of layers, read from a shipped table, a CSV or ONNX file, or one problem word."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from fastconv.compare.reading import clean
from fastconv.problem import Problem

COLUMNS = "n c h w k r s stride_h stride_w pad_h pad_w dil_h dil_w groups count".split()
#: Larger numbers are taken for damage: no axis of a real layer comes near.
LARGEST = 1 << 24
MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution of a workload and how often the network runs it."""

    name: str
    problem: Problem
    count: int = 1

    def where(self, **changes: object) -> Layer:
        """Return the same layer with some words of its problem changed, e.g. ``layout="NHWC"``."""
        return replace(self, problem=replace(self.problem, **changes))  # type: ignore[arg-type]


def workload_names() -> tuple[str, ...]:
    """Return the names of the shipped workloads."""
    folder = resources.files("fastconv.compare") / "workloads"
    return tuple(sorted(path.name[:-4] for path in folder.iterdir() if path.name.endswith(".csv")))


def load(source: str) -> tuple[str, list[Layer]]:
    """Return the title and the layers of a shipped workload, a CSV or ONNX file, or a problem word.

    Raises
    ------
    ValueError
        When `source` is none of them, with what is wrong and what there is to choose from.
    """
    if source in workload_names():
        text = (resources.files("fastconv.compare") / "workloads" / f"{source}.csv").read_text("utf-8")
        return source, parse_csv(text, source)
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        from fastconv.compare.onnx_layers import convolutions

        return clean(path.stem), [Layer(name, problem, count) for name, problem, count in convolutions(path)]
    if path.suffix.lower() == ".csv" or os.sep in source:
        return clean(path.stem), parse_csv(_read_file(path), path.name)
    if re.match(r"n\d+c\d+h\d", source):
        return source, [Layer(source, Problem.parse(source))]
    raise ValueError(
        f"workload: {source!r} is not a shipped workload ({', '.join(workload_names())}), not the name of "
        "a .csv or .onnx file and not a problem word such as n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32"
    )


def _read_file(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"workload: {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ValueError(f"workload: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"workload: {path} is not UTF-8 text") from None


def parse_csv(text: str, name: str) -> list[Layer]:
    """Return the layers of a table with the columns of the shipped workloads; further columns are ignored."""
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(f"workload: {name} is not a CSV table: {error}") from None
    if not rows:
        raise ValueError(f"workload: {name} holds no layers")
    missing = [column for column in ["layer", *COLUMNS] if column not in rows[0]]
    if missing:
        raise ValueError(f"workload: {name} lacks the columns {', '.join(missing)}")
    return [_parse_row(row, f"{name} line {line}") for line, row in enumerate(rows, start=2)]


def _parse_row(row: dict[str, str | None], where: str) -> Layer:
    v = {column: _number(row[column], column, where) for column in COLUMNS}
    if v["count"] < 1:
        raise ValueError(f"workload: {where}: count must be at least 1, got {v['count']}")
    try:
        problem = Problem(
            n=v["n"],
            c=v["c"],
            h=v["h"],
            w=v["w"],
            o=v["k"],
            kh=v["r"],
            kw=v["s"],
            stride=(v["stride_h"], v["stride_w"]),
            dilation=(v["dil_h"], v["dil_w"]),
            padding=(v["pad_h"], v["pad_h"], v["pad_w"], v["pad_w"]),
            groups=v["groups"],
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"workload: {where}: {error}") from None
    return Layer(clean(row["layer"] or where), problem, v["count"])


def _number(text: str | None, column: str, where: str) -> int:
    text = (text or "").strip()
    if not re.fullmatch(r"\d{1,9}", text) or int(text) > LARGEST:
        raise ValueError(f"workload: {where}: {column} must be a whole number up to {LARGEST}, got {text!r}")
    return int(text)


def match(layers: Iterable[Layer], pattern: str) -> list[Layer]:
    """Return the layers whose name or problem word `pattern` is found in."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"match: {pattern!r} is not a regular expression: {error}") from None
    return [layer for layer in layers if regex.search(layer.name) or regex.search(layer.problem.word)]
