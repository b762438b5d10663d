"""Features of events, declared by expressions over their collections: `FeatureSpec`."""
