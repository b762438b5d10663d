"""Filesets for coffea's Runner that read what a processor needs in one go: :func:`preload_branches`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neyman.errors import ConfigError
from neyman.events.columns import Paths, expand, open_tree


def preload_branches(
    fileset: Mapping[str, Paths | Mapping[str, Any]],
    source: Any,
    *,
    extra: Sequence[str] = ("genWeight",),
    tree: str = "Events",
) -> dict[str, dict[str, Any]]:
    """Return a fileset of coffea that names the branches to read at once; others are still read when used.

    Parameters
    ----------
    fileset
        For each dataset its files (paths or patterns), or coffea's dictionary with ``files`` and perhaps
        ``metadata`` and ``treename``.
    source
        What says which branches it reads: a :class:`~neyman.events.features.FeatureSpec`, a
        :class:`~neyman.events.Scorer`, a :class:`HistProcessor` or a :class:`RatioProcessor`.
    extra
        Further branches, where the dataset has them.
    tree
        Name of the tree, where a dataset gives none.

    Raises
    ------
    ConfigError
        The source does not say what it reads.
    InputError
        A dataset has no files, or its first one cannot be opened.

    Examples
    --------
    >>> runner(preload_branches({"ttbar": ["a.root", "b.root"]}, spec), processor)  # doctest: +SKIP
    """
    if not hasattr(source, "branches"):
        raise ConfigError(
            f"a {type(source).__name__} does not say which branches it reads",
            expected="a FeatureSpec, a Scorer, a HistProcessor or a RatioProcessor",
        )
    result = {}
    for dataset, given in fileset.items():
        entry: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"files": given}
        paths = expand(list(entry["files"]) if isinstance(entry["files"], Mapping) else entry["files"])
        name = entry.get("treename", tree)
        with open_tree(paths[0], name) as events:
            available = list(events.keys())
        wanted = [*source.branches(available), *(branch for branch in extra if branch in available)]
        result[dataset] = entry | {"files": paths, "treename": name, "preload": list(dict.fromkeys(wanted))}
    return result
