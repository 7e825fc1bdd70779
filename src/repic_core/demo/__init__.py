"""Pages to look at captions and to make them: ``python -m repic_core.demo viewer`` and ``... live``.

`viewer` shows captions that are on disk and needs no torch; `live` captions with a loaded model.

>>> from repic_core.demo import launch
>>> from repic_core.demo.viewer import build_viewer
>>> launch(build_viewer({"ours": "ours.json"}, "database.json", "."))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr


def launch(app: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """``app.launch`` for this machine alone: on 127.0.0.1, never shared, with fonts that the system has.

    Args:
        options: of ``gr.Blocks.launch``, such as ``server_port`` or ``prevent_thread_lock=True``; they
            replace the ones set here.

    Returns:
        Gradio's (server, local address, public address); the last is empty.
    """
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    defaults: dict[str, Any] = {
        "server_name": "127.0.0.1",
        "share": False,
        "ssr_mode": False,
        "max_file_size": "20mb",
        "footer_links": [],
        "theme": gr.themes.Default(primary_hue="indigo", font=fonts, font_mono=["ui-monospace", "monospace"]),
    }
    return app.launch(**(defaults | options))
