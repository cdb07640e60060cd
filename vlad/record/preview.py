"""The operator's view: the pictures that are recorded, as a page for a browser, and no others.

What the policy will not see, the operator must not use; so this shows the cameras of the data set alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from numpy.typing import NDArray

from vlad.metrics_listener import address

MAX_VIEWERS = 8
WAIT_S = 2.0
QUALITY = 80
BOUNDARY = "picture"

Pictures = Mapping[str, NDArray[np.uint8]]


class Preview:
    """Serves `/` and a stream of JPEGs for each camera at `/NAME`. at: `127.0.0.1:8088`, on which to listen.

    ValueError, OSError: no such address, or in use.
    """

    def __init__(self, at: str) -> None:
        self._changed = threading.Condition()
        self._pictures: Pictures = {}
        self._number = 0
        self._slots = threading.BoundedSemaphore(MAX_VIEWERS)
        self._server = ThreadingHTTPServer(address(at), _page_of(self))
        self._server.daemon_threads = True
        self.url = f"http://{at}/"
        threading.Thread(target=self._server.serve_forever, name="vlad-preview", daemon=True).start()

    def show(self, pictures: Pictures) -> None:
        """The newest pictures, which never change. Returns at once."""
        with self._changed:
            self._pictures = pictures
            self._number += 1
            self._changed.notify_all()

    @property
    def cameras(self) -> list[str]:
        return list(self._pictures)

    def next(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """Number and JPEG of the newest picture, once there is one after `after`; None: none came."""
        import simplejpeg

        with self._changed:
            self._changed.wait_for(lambda: self._number > after, WAIT_S)
            number, picture = self._number, self._pictures.get(camera)
        if number <= after or picture is None:
            return None
        return number, simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, "RGB")

    def take_slot(self) -> bool:
        return self._slots.acquire(blocking=False)

    def give_slot(self) -> None:
        self._slots.release()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _page_of(preview: Preview) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            camera = self.path.strip("/")
            if camera and camera not in preview.cameras:
                self.send_error(HTTPStatus.NOT_FOUND, "no such camera in this recording")
            elif not preview.take_slot():
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "too many viewers")
            else:
                try:
                    with suppress(OSError):  # the viewer has gone
                        self._stream(camera) if camera else self._page()
                finally:
                    preview.give_slot()

        def _page(self) -> None:
            shown = "".join(f'<figure><img src="/{name}"><figcaption>{name}</figcaption></figure>'
                            for name in preview.cameras)  # fmt: skip
            body = f"<!doctype html><title>vlad record</title><style>figure{{display:inline-block}}</style>{shown}"
            self._begin("text/html; charset=utf-8")
            self.wfile.write(body.encode())

        def _stream(self, camera: str) -> None:
            self._begin(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            number = -1
            while (found := preview.next(camera, number)) is not None:
                number, jpeg = found
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")

        def _begin(self, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

        def version_string(self) -> str:
            return "vlad"

        def log_message(self, format: str, *args: object) -> None:
            """Viewers are no news."""

    return Page
