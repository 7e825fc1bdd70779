"""Measurements of the kit's own speed and memory: `training_step`, `kept_references`, `large_index`, `page_load`,
`plan_check`. They run on the models and prompts of `presets`; the command is ``repic benchmark``."""
