"""What notebooks, pages and papers show: `caption_grid` and `charts` draw figures, `concept_editor` edits a
database, and `html` and `typeset` set captions with coloured names."""
