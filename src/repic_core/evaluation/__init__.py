"""How good captions are: `scores.score` and `intervals` for names, `task_scores` for the other tasks, `judges` and
`preference` for quality, and `paper_tables` for the paper's tables."""
