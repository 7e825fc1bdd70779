"""Models and their processors: `loading.load_model` loads them, with or without an adapter. `families` lists how
the families differ, `sizes` has published sizes, and `boxes` converts boxes to what a model sees."""
