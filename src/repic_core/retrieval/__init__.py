"""Find the concepts of a photo in a large database: regions, embedders, indexes, thresholds."""
