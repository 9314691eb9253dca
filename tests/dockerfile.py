"""`docker/Dockerfile` read without docker: its stages and their instructions."""

import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"


class Instruction(NamedTuple):
    """Such as ``RUN`` and its command."""

    name: str
    value: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, which begins with its FROM."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    found: list[list[Instruction]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, value.strip()))
    return found


def values(stage: list[Instruction], name: str) -> list[str]:
    """The values of all instructions of a name."""
    return [each.value for each in stage if each.name == name]


def environment(stage: list[Instruction]) -> dict[str, str]:
    """What its ENV lines set; none of them has a space in a value."""
    pairs = (pair for value in values(stage, "ENV") for pair in value.split())
    return dict(pair.split("=", 1) for pair in pairs)


def exec_form(value: str) -> list[str]:
    """The words of a JSON list, after options such as HEALTHCHECK's."""
    found = re.search(r"(\[.+\])$", value)
    assert found, value
    words: list[str] = json.loads(found[1])
    return words
