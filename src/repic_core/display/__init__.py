"""Show concepts and captions: figures for papers, HTML for pages, an editor for notebooks."""
