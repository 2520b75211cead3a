"""Container files and what they may copy, read as Docker's documentation says, as far as it is used here."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

KEYWORDS = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
"""Those that are used here."""


@dataclass(frozen=True)
class Instruction:
    keyword: str
    value: str
    """Lines that are continued are one."""
    line: int


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next. ``image``: with the default of an ARG before the first FROM."""

    image: str
    name: str | None
    instructions: tuple[Instruction, ...]

    def values(self, keyword: str) -> list[str]:
        return [each.value for each in self.instructions if each.keyword == keyword]

    @property
    def arguments(self) -> dict[str, str]:
        """Defaults of its ARGs."""
        return {name: value for name, _, value in (each.partition("=") for each in self.values("ARG"))}

    @property
    def copied(self) -> list[tuple[list[str], str, str | None]]:
        """(sources, target, stage they are copied from) of each COPY."""
        found = []
        for value in self.values("COPY"):
            words = value.split()
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
            found.append((words[:-1], words[-1], origin))
        return found


def instructions(path: Path) -> list[Instruction]:
    """Raises ValueError for a line that is no instruction."""
    found, pending, began = [], "", 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        began = began if pending else number
        pending += line.strip().removesuffix("\\").strip() + " "
        if line.rstrip().endswith("\\"):
            continue
        keyword, _, value = pending.strip().partition(" ")
        if keyword not in KEYWORDS or not value:
            raise ValueError(f"{path.name}:{began}: no instruction: {pending.strip()!r}")
        found.append(Instruction(keyword, value.strip(), began))
        pending = ""
    if pending:
        raise ValueError(f"{path.name}:{began}: a line that is continued ends the file")
    return found


def stages(path: Path) -> list[Stage]:
    """In their order; the last is what is built unless another is named."""
    found: list[Stage] = []
    defaults: dict[str, str] = {}
    for each in instructions(path):
        if each.keyword == "FROM":
            image, _, name = each.value.partition(" AS ")
            for argument, value in defaults.items():
                image = image.replace(f"${{{argument}}}", value)
            found.append(Stage(image, name or None, ()))
        elif found:
            last = found[-1]
            found[-1] = Stage(last.image, last.name, (*last.instructions, each))
        else:
            name, _, value = each.value.partition("=")
            defaults[name] = value
    return found


def is_sent(root: Path, path: str) -> bool:
    """Whether ``.dockerignore`` in ``root`` leaves a path in: the last line that matches it or a folder above
    it decides."""
    sent = True
    for line in (root / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        allows = pattern.startswith("!")
        if _matches(pattern.removeprefix("!").strip("/"), PurePosixPath(path)):
            sent = allows
    return sent


def _matches(pattern: str, path: PurePosixPath) -> bool:
    places = [str(place) for place in (path, *path.parents) if str(place) != "."]
    if pattern.startswith("**/"):
        inner = pattern.removeprefix("**/")
        return any(fnmatch.fnmatch(part, inner) for part in path.parts)
    depth = pattern.count("/")
    return any(fnmatch.fnmatch(place, pattern) for place in places if place.count("/") == depth)
