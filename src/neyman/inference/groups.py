"""Groups of nuisance parameters, chosen by names and wildcards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from neyman.errors import InferenceError, nearest
from neyman.inference.arguments import locate
from neyman.likelihood import Likelihood

Groups = Mapping[str, Sequence[str | int]]


def members(likelihood: Likelihood, group: str, chosen: Sequence[str | int] | str, poi: int) -> list[int]:
    """Return the positions of the parameters of a group, each once.

    Parameters
    ----------
    likelihood
        Whose parameters.
    group
        Name of the group, for messages.
    chosen
        Names, indices, and names with the wildcards ``*`` and ``?`` (brackets stand for themselves); the name of a
        vector parameter stands for all its components. Wildcards leave out the parameter of interest.
    poi
        Position of the parameter of interest.

    Raises
    ------
    InferenceError
        When nothing matches, or a name or an index is that of the parameter of interest.
    """
    found: dict[int, None] = {}
    for key in [chosen] if isinstance(chosen, str) else chosen:
        if not isinstance(key, str) or key in likelihood.names:
            if locate(likelihood, key) == poi:
                raise InferenceError(
                    f"group {group!r} contains the parameter of interest {likelihood.names[poi]!r}"
                )
            found[locate(likelihood, key)] = None
            continue
        pattern = key.replace("[", "[[]")
        matched = [
            k
            for k, name in enumerate(likelihood.names)
            if k != poi and (fnmatchcase(name, pattern) or name.startswith(f"{key}["))
        ]
        if not matched:
            raise InferenceError(
                f"group {group!r}: no nuisance parameter matches {key!r}",
                fix=f"nearest names: {nearest(key.strip('*?'), likelihood.names)}",
            )
        found |= dict.fromkeys(matched)
    return list(found)


def by_kind(likelihood: Likelihood, poi: int) -> dict[str, list[str | int]]:
    """Return the default groups: ``systematic`` (constrained), ``bin-by-bin`` (components of constrained vectors,
    as staterror and shapesys) and ``free`` (no constraint); those without parameters are left out."""
    groups: dict[str, list[str | int]] = {"systematic": [], "bin-by-bin": [], "free": []}
    for k, parameter in enumerate(likelihood.parameters):
        if k == poi or parameter.fixed or parameter.lower == parameter.upper:
            continue
        if parameter.constraint is None:
            groups["free"].append(k)
        else:
            groups["bin-by-bin" if parameter.name.endswith("]") else "systematic"].append(k)
    return {name: chosen for name, chosen in groups.items() if chosen}
