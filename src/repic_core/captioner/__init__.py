"""Captions of photos that use the names of given concepts.

`captioner.Captioner` captions with a loaded model; `PrefixCaptioner` in `kept_references` also keeps the references
for the next photo; `EndpointCaptioner` in `endpoint` asks a model on a server. `caption_files` reads and checks
caption files.
"""
