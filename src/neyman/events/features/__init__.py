"""Features of events, declared by expressions over their collections: :class:`FeatureSpec`."""

from __future__ import annotations

from neyman.events.features.spec import FeatureSpec

__all__ = ["FeatureSpec"]
