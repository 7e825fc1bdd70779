"""The toy concept world, its embedded base model, and the miniature of the paper's claim."""
