"""A camera on the network: streams a clip in a loop, in real time, over RTSP or as MJPEG over HTTP.

    PYTHON camera_server.py CLIP PORT [--http] [--user NAME --password-fd FD] [--drop P]

RTSP is GStreamer's rtsp-server with its Python bindings, so PYTHON is then the interpreter that has them;
HTTP needs nothing. A clip is written by `rtsp_rig.write_clip`. Standard output tells what happens, a JSON
document per line: ``ready``, ``frame`` with the place in the clip and the time (`time.monotonic`) at which it
went out, ``client``. Standard input takes ``{"drop": 0.1}`` (share of RTP packets lost from now on) and
``{"clip": PATH}`` (another clip from now on, in the middle of the stream); its end ends the server, so none
outlives who started it.
"""

from __future__ import annotations

import argparse
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

CAPS = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "hevc": "video/x-h265,stream-format=byte-stream,alignment=au",
    "mjpeg": "image/jpeg",
}
PAYLOADERS = {
    "h264": "rtph264pay config-interval=-1",
    "hevc": "rtph265pay config-interval=-1",
    "mjpeg": "rtpjpegpay",
}
_say_lock = threading.Lock()


def say(**what: object) -> None:
    with _say_lock:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


class Clip:
    """What `rtsp_rig.write_clip` wrote: a line of JSON, then the pictures one after the other."""

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:
            head = json.loads(file.readline())
            self.pictures = [file.read(size) for size in head["sizes"]]
        self.codec, self.fps = head["codec"], head["fps"]
        self.width, self.height = head["width"], head["height"]


class Camera:
    """Says which picture is next and when. After a pause it goes on from now: nothing is caught up on."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.place = clip, 0

    def switch(self, clip: Clip) -> None:
        self.clip, self.place = clip, 0

    def pictures(self) -> Iterator[bytes]:
        due = time.monotonic()
        while True:
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif wait < -0.2:
                due = time.monotonic()
            clip, place = self.clip, self.place
            self.place = (place + 1) % len(clip.pictures)
            say(event="frame", place=place, size=[clip.height, clip.width], at=time.monotonic())
            yield clip.pictures[place]
            due += 1 / clip.fps


def serve_http(camera: Camera, port: int) -> None:
    """Every client gets the pictures that come while it is there, as multipart/x-mixed-replace."""
    changed, newest = threading.Condition(), [b"", 0]

    def film() -> None:
        for picture in camera.pictures():
            with changed:
                newest[:] = [picture, newest[1] + 1]
                changed.notify_all()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            say(event="client")
            seen = newest[1]
            try:
                while True:
                    with changed:
                        while newest[1] == seen:
                            changed.wait()
                        picture, seen = newest
                    head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
            except OSError:
                pass

        def log_message(self, *args: object) -> None:
            pass

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=film, daemon=True).start()
    say(event="ready", software="Python's http.server, multipart/x-mixed-replace")
    server.serve_forever()


class RtspServer:
    """GStreamer's rtsp-server with one shared stream at ``/drive``, which begins with its first client."""

    def __init__(self, camera: Camera, arguments: argparse.Namespace) -> None:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GLib, Gst, GstApp, GstRtspServer

        Gst.init(None)
        assert GstApp  # the type of the element that takes the pictures
        self.gst, self.camera, self.drop = Gst, camera, arguments.drop
        self.loss = None
        self.loop = GLib.MainLoop()
        self.server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(arguments.port))
        factory = GstRtspServer.RTSPMediaFactory(shared=True, latency=0)
        codec = camera.clip.codec
        factory.set_launch(
            f"( appsrc name=camera is-live=true do-timestamp=true format=time ! {PAYLOADERS[codec]} pt=96"
            " mtu=1200 ! identity name=pay0 )"
        )
        factory.connect("media-configure", self.configure)
        if arguments.user:
            with os.fdopen(arguments.password_fd) as file:
                self.protect(GstRtspServer, factory, arguments.user, file.read())
        self.server.get_mount_points().add_factory("/drive", factory)
        self.server.connect("client-connected", lambda *_: say(event="client"))

    def protect(self, rtsp: object, factory: object, user: str, password: str) -> None:
        token = rtsp.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth = rtsp.RTSPAuth()
        auth.add_basic(rtsp.RTSPAuth.make_basic(user, password), token)
        self.server.set_auth(auth)
        permissions = rtsp.RTSPPermissions()
        for allowed in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", allowed, True)
        factory.set_permissions(permissions)

    def configure(self, factory: object, media: object) -> None:
        """A first client came: film until the last one has gone."""
        bin_ = media.get_element()
        source = bin_.get_by_name_recurse_up("camera")
        self.loss = bin_.get_by_name_recurse_up("pay0")
        self.lose(self.drop)
        clip = self.camera.clip
        more = f",width={clip.width},height={clip.height},framerate={clip.fps}/1"
        source.set_property("caps", self.gst.Caps.from_string(CAPS[clip.codec] + more))
        gone = threading.Event()
        media.connect("unprepared", lambda *_: gone.set())

        def film() -> None:
            self.camera.place = 0
            for picture in self.camera.pictures():
                buffer = self.gst.Buffer.new_wrapped(picture)
                if gone.is_set() or source.emit("push-buffer", buffer) != self.gst.FlowReturn.OK:
                    return

        threading.Thread(target=film, daemon=True).start()

    def lose(self, share: float) -> None:
        self.drop = share
        if self.loss is not None:
            self.loss.set_property("drop-probability", share)

    def run(self) -> None:
        if not self.server.attach(None):
            sys.exit("the port is taken")
        say(event="ready", software=f"GStreamer rtsp-server, {self.gst.version_string()}")
        self.loop.run()


def obey(camera: Camera, server: RtspServer | None) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if "clip" in command:
            camera.switch(Clip(command["clip"]))
        if "drop" in command and server is not None:
            server.lose(command["drop"])
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip")
    parser.add_argument("port", type=int)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--user")
    parser.add_argument("--password-fd", type=int)
    parser.add_argument("--drop", type=float, default=0.0)
    arguments = parser.parse_args()
    camera = Camera(Clip(arguments.clip))
    server = None if arguments.http else RtspServer(camera, arguments)
    threading.Thread(target=obey, args=(camera, server), daemon=True).start()
    if server is None:
        serve_http(camera, arguments.port)
    else:
        server.run()


if __name__ == "__main__":
    main()
