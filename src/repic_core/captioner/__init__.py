"""Captions of photos that use the names of given concepts: `captioner.Captioner`, and `PrefixCaptioner` in
`kept_references`, which keeps the references for the next photo. `caption_files` reads and checks caption files."""
