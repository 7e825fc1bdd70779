"""Databases of one-coloured photos, and an embedder that sees nothing but their colour."""

import numpy as np
from PIL import Image

from repic_core.concepts.concept import Concept
from repic_core.concepts.database import ConceptDatabase
from repic_core.retrieval.embedders import unit


class Colors:
    """An embedder by mean colour; `seen` counts the photos."""

    seen = 0

    def __init__(self, name="mean colour"):
        self.name = name

    def images(self, photos):
        self.seen += len(photos)
        return unit([np.asarray(photo, np.float32).mean((0, 1)) + 1 for photo in photos])


def colours(folder, **named):
    """A database of a concept for each name, with a photo in its colour (r, g, b)."""
    concepts = []
    folder.mkdir(exist_ok=True)
    for name, rgb in named.items():
        paint(folder / f"{name}.png", rgb)
        concepts.append(Concept(name=name, image=str(folder / f"{name}.png")))
    return ConceptDatabase(concepts, root=folder)


def paint(path, rgb):
    """Write a photo of one colour."""
    Image.new("RGB", (8, 8), rgb).save(path)
