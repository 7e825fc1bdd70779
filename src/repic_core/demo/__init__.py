"""Two pages in the browser, to look at captions and to make them: ``repic demo viewer`` and ``repic demo live``.

`viewer` shows captions from files and needs no torch; `live` captions photos with a loaded model.

>>> from repic_core.demo import launch
>>> from repic_core.demo.viewer import build_viewer
>>> launch(build_viewer({"ours": "ours.json"}, "database.json", "."))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repic_core.io.uploads import MAX_BYTES

if TYPE_CHECKING:
    import gradio as gr

# With its own colours for these, Gradio misses the contrast of 4.5 that WCAG AA requires.
READABLE = {
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_cancel_background_fill": "#b91c1c",
    "button_cancel_background_fill_dark": "#b91c1c",
    "button_cancel_background_fill_hover": "#991b1b",
    "button_cancel_background_fill_hover_dark": "#991b1b",
}


def launch(app: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Launch `app` for this machine only: on 127.0.0.1, not shared, with the system's fonts.

    Args:
        options: passed on to ``gr.Blocks.launch``, such as ``server_port`` or ``prevent_thread_lock=True``; they
            override the ones set here.

    Returns:
        Gradio's (server, local address, public address); the last is empty.
    """
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="indigo", **fonts)
    defaults: dict[str, Any] = {
        "server_name": "127.0.0.1",
        "share": False,
        "ssr_mode": False,
        "max_file_size": f"{MAX_BYTES >> 20}mb",
        "footer_links": [],
        "theme": theme.set(**READABLE),
    }
    return app.launch(**(defaults | options))
