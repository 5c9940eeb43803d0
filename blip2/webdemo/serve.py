"""Puts the demo's page on an address of this machine."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blip2.utils.errors import MissingPackageError

if TYPE_CHECKING:
    from .service import Service


@contextmanager
def serving(service: "Service", host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """The page of `service` on an address, which is handed out; the uploads of its visitors go when it ends.

    Nothing is fetched from elsewhere: no fonts, no statistics. The models are loaded while the page is already there.

    Raises:
        MissingPackageError: Gradio is not installed.
        OSError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="blip2-demo-") as uploads:
        os.environ.update(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False")  # read when Gradio is imported
        gradio, build_page = _gradio()
        from .markup import STYLE

        page = build_page(service)
        theme = gradio.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=service.limits.upload_mb * 1_000_000,
            theme=theme,
            css=STYLE,
            footer_links=["api"],
            share=False,
            ssr_mode=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        loading = threading.Thread(target=_preload, args=(service,), daemon=True)
        loading.start()
        try:
            yield address
        finally:
            page.close(verbose=False)
            service.stop_preload()
            loading.join()  # Python must not end below a thread that is inside a library


def _preload(service: "Service") -> None:
    """Loads the models; what cannot be loaded is told now, and again to the visitor who needs it."""
    try:
        service.preload()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"blip2 demo: {error}", file=sys.stderr)


def _gradio() -> tuple:
    try:
        import gradio
    except ImportError as error:
        raise MissingPackageError("the demo needs Gradio: pip install 'blip2[demo]'") from error
    from .page import build_page

    return gradio, build_page
