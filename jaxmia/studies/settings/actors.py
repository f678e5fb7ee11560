"""`release` and `knowledge`: who attacks, by what is seen of the model and what is known beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated

import pydantic
from pydantic import Field

from jaxmia._validate import InputError
from jaxmia.scores.release import parse_release
from jaxmia.studies.settings.base import Different

FULL = "full"
MOST_RELEASES = 64
_TRAIT = re.compile(r"(?P<name>shadows|releases):(?P<number>\d{1,6})")
TRAITS = ("full", "population", "shadows:NUMBER", "recipe:inferred", "recipe:guessed", "releases:NUMBER")


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What an actor knows beside what is released.

    Attributes:
        candidates: True if shadows may be trained with and without the records asked about; False if only other records
            of the same population are known, so that no shadow has ever seen them (offline).
        shadows: number of shadows that the actor affords; None for all there are.
        recipe: "known"; "inferred" from the model by KL-LiRA; or "guessed", every shadow tuned on its own (ACC-LiRA).
        releases: models of the same training data that are released, trained again.
    """

    candidates: bool = True
    shadows: int | None = None
    recipe: str = "known"
    releases: int = 1

    @property
    def words(self) -> str:
        """What is known, in words."""
        said = [
            "the records and others like them"
            if self.candidates
            else "other records of the population alone",
            {
                "known": "the recipe",
                "inferred": "no recipe, and infers it from the model",
                "guessed": "no recipe, and tunes its own",
            }[self.recipe],
        ]
        if self.shadows is not None:
            said.append(f"{self.shadows} shadow models" if self.shadows else "trains no shadow model")
        if self.releases > 1:
            said.append(f"sees {self.releases} re-trainings")
        return ", ".join(said)


def parse_knowledge(text: str) -> Knowledge:
    """Return the knowledge of traits joined by commas, such as "full" or "population, shadows:64".

    Raises:
        InputError: for an unknown trait, one that is given twice, or a number that no attack can use.
    """
    found: dict[str, object] = {}
    rule = f"be one of {', '.join(TRAITS)}, or several joined by commas"
    for trait in (part.strip() for part in text.split(",")):
        match = _TRAIT.fullmatch(trait)
        if match is not None:
            name, value = match["name"], int(match["number"])
            _check_number(text, name, value)
            entry: tuple[str, object] = (name, value)
        elif trait in ("recipe:inferred", "recipe:guessed"):
            entry = ("recipe", trait.partition(":")[2])
        elif trait in (FULL, "population"):
            entry = ("candidates", trait == FULL)
        else:
            raise InputError(f"knowledge={text!r} must {rule}.")
        if entry[0] in found:
            raise InputError(f"knowledge={text!r} must say each thing once, but says {entry[0]} twice.")
        found[entry[0]] = entry[1]
    if found.get("shadows") == 0 and found.get("recipe", "known") != "known":
        raise InputError(
            f"knowledge={text!r} must have shadows: a recipe is inferred or guessed by training some."
        )
    return Knowledge(**found)  # type: ignore[arg-type]


def _check_number(text: str, name: str, value: int) -> None:
    if name == "shadows" and value == 1:
        raise InputError(f"knowledge={text!r} must have no shadows, or at least 2: one on each side.")
    if name == "releases" and not 2 <= value <= MOST_RELEASES:
        raise InputError(f"knowledge={text!r} must have 2 to {MOST_RELEASES} releases of the same data.")


def _releases(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_release(name)
    return names


def _knowledges(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_knowledge(name)
    return names


Releases = Annotated[tuple[str, ...], Field(strict=False), Different, pydantic.AfterValidator(_releases)]
Knowledges = Annotated[tuple[str, ...], Field(strict=False), Different, pydantic.AfterValidator(_knowledges)]


def asked_for(release: Sequence[str], knowledge: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return releases and knowledges of a table of actors, with a default for the one that is not given.

    Both are empty where neither is given: then there is no such table.
    """
    if not release and not knowledge:
        return (), ()
    return tuple(release) or ("probabilities",), tuple(knowledge) or (FULL,)
