"""Which concepts of a large database a photo shows: `find.find_concepts` searches an `index.ConceptIndex` for the
photo's regions, and `threshold` separates known concepts from strangers."""
