"""Concepts (people, pets, things) with their photos: `concept.Concept` is one of them, `database.ConceptDatabase` a
file of many. `tags` and `names` say how a concept is written, and find it in a text."""
