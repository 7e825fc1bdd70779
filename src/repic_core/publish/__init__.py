"""From a trained adapter to a folder that others can load: `merge.merge_adapter`, whose result `verify` checks, and
`export.export`, which writes the `cards` and can upload the folder to the hub."""
