"""What an ablation measures: arms, read from a declaration (ablation.toml explains its keys)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpsl_deploy.errors import RecipeError
from cpsl_deploy.train.adaptation import STAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ORACLE = ("oracle",)
KINDS = ("ladder", "add", "remove")
CLAIM_KINDS = ("gain", "tail")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting to measure."""

    name: str
    title: str
    group: str
    stages: tuple[str, ...]
    """What it trains: neighbours in the method's order, or the oracle. The last one's network is scored."""
    like: str = ""
    """The arm whose settings it starts from and that it is compared with."""
    set: Mapping[str, Any]
    """What differs from that arm in the recipe, by key."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Arms that are shown together."""

    name: str
    title: str
    kind: str
    """``ladder``: each arm stands for itself; ``add`` and ``remove``: each adds an option to the arm it is
    like, or removes one."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that the figures hold or do not hold up."""

    text: str
    kind: str
    """``gain``: ``arm`` scores above ``over``; ``tail``: what it gains over it is most on the tail."""
    arm: str
    over: str


@dataclass(frozen=True, kw_only=True)
class Closure:
    """Which share of the way from a baseline to the oracle an arm goes."""

    arm: str
    base: str
    oracle: str
    goal: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole declaration. Raises RecipeError if its parts do not fit together."""

    arms: Mapping[str, Arm]
    groups: tuple[Group, ...]
    prior_of: str
    """The arm whose estimated class prior parts head and tail, for all arms of a seed."""
    claims: tuple[Claim, ...] = ()
    closures: tuple[Closure, ...] = ()

    def __post_init__(self) -> None:
        for arm in self.arms.values():
            if arm.like:
                self._require_known(arm.like, f"the arm {arm.name}")
            _require_stages(arm)
            self.begins_after(arm)
        self._require_known(self.prior_of, "prior_of")
        for claim in self.claims:
            if claim.kind not in CLAIM_KINDS:
                raise RecipeError(
                    f"a claim's kind is one of {', '.join(CLAIM_KINDS)}; {claim.text!r} has {claim.kind!r}."
                )
            self._require_known(claim.arm, f"the claim {claim.text!r}")
            self._require_known(claim.over, f"the claim {claim.text!r}")
        for closure in self.closures:
            for name in (closure.arm, closure.base, closure.oracle):
                self._require_known(name, "a closure")

    def chain(self, arm: Arm) -> Iterator[Arm]:
        """The arm, the one it is like, and so on."""
        seen: set[str] = set()
        while arm.name not in seen:
            yield arm
            seen.add(arm.name)
            if not arm.like:
                return
            arm = self.arms[arm.like]
        raise RecipeError(f"an arm is like an earlier one; {arm.name} is, in the end, like itself.")

    def overrides(self, arm: Arm) -> dict[str, Any]:
        """What differs from the pair's recipe, by key."""
        given: dict[str, Any] = {}
        for one in reversed(list(self.chain(arm))):
            for key, value in one.set.items():
                for covered in [k for k in given if k.startswith(f"{key}.")]:
                    del given[covered]
                given[key] = copy.deepcopy(value)
        return given

    def begins_after(self, arm: Arm) -> Arm | None:
        """The arm whose finished stages this one takes over: the nearest it is like that trains the stage
        before its first. None if it begins at the beginning.
        """
        if arm.stages == ORACLE or arm.stages[0] == STAGES[0]:
            return None
        before = STAGES[STAGES.index(arm.stages[0]) - 1]
        for one in self.chain(arm):
            if before in one.stages and one is not arm:
                return one
        raise RecipeError(
            f"the arm {arm.name} begins with {arm.stages[0]}, and no arm it is like trains {before}. Set "
            "`like`, or let it train that stage too."
        )

    def with_prefixes(self, names: Sequence[str]) -> list[Arm]:
        """The named arms (names of groups stand for theirs, ``all`` for all) and those they begin after, in
        the declaration's order. Raises RecipeError for an unknown name.
        """
        wanted: set[str] = set()
        groups = {group.name for group in self.groups}
        for name in names:
            if name not in groups and name != "all":
                self._require_known(name, "--arms", sorted(groups))
            found = [a for a in self.arms.values() if name in (a.name, a.group, "all")]
            for arm in found:
                begin: Arm | None = arm
                while begin is not None:
                    wanted.add(begin.name)
                    begin = self.begins_after(begin)
        return [arm for arm in self.arms.values() if arm.name in wanted]

    def _require_known(self, name: str, where: str, groups: Sequence[str] = ()) -> None:
        if name not in self.arms:
            known = ", ".join([*groups, *self.arms])
            raise RecipeError(f"{where} names an arm, and there is no {name!r}. Known: {known}.")


def taken_over(arm: Arm) -> tuple[str, ...]:
    """The stages an arm does not train but begins with."""
    return () if arm.stages == ORACLE else STAGES[: STAGES.index(arm.stages[0])]


def read_plan(path: Path) -> Plan:
    """A declaration. Raises RecipeError for what breaks its rules."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        arms: dict[str, Arm] = {}
        groups = []
        for group in values["group"]:
            groups.append(Group(name=group["name"], title=group["title"], kind=group.get("kind", "ladder")))
            for arm in _arms(group):
                if arm.name in arms:
                    raise RecipeError(f"{path}: an arm's name is its own; there are two {arm.name!r}.")
                arms[arm.name] = arm
        return Plan(
            arms=arms,
            groups=tuple(groups),
            prior_of=values["prior_of"],
            claims=tuple(Claim(**claim) for claim in values.get("claim", [])),
            closures=tuple(Closure(**closure) for closure in values.get("closure", [])),
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}. Correct the file.") from error
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{path}: a key is missing, unknown or of another type: {error}.") from error


def _arms(group: dict[str, Any]) -> Iterator[Arm]:
    """A group's arms; ``like`` and ``stages`` of the group are theirs unless they have their own."""
    if group.get("kind", "ladder") not in KINDS:
        raise RecipeError(f"a group's kind is one of {', '.join(KINDS)}; got {group['kind']!r}.")
    common = {key: group[key] for key in ("like", "stages") if key in group}
    for given in group["arm"]:
        arm = {**common, **given}
        arm["stages"] = tuple(arm["stages"])
        arm["set"] = dict(_flat(arm.get("set", {})))
        yield Arm(group=group["name"], **arm)


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted keys. An empty table stays: it sets a section back to its defaults."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def _require_stages(arm: Arm) -> None:
    if arm.stages == ORACLE:
        return
    places = [STAGES.index(stage) for stage in arm.stages if stage in STAGES]
    if len(places) != len(arm.stages) or not places or places != list(range(places[0], places[-1] + 1)):
        raise RecipeError(
            f"an arm's stages are neighbours in {', '.join(STAGES)}, or the oracle alone; {arm.name} has "
            f"{list(arm.stages)}."
        )
