"""Training on rows: `grpo.train` (GRPO with verifiable rewards) and `sft.train` (captions), with settings from
`recipes/`. `checkpoints` makes a killed run resume exactly; `reproduce.repeat` repeats a run from its record."""
