"""The preview over HTTP, asked by real clients."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drift_roads import road_reference, road_result
from sink_results import make_result, nothing_left, wait_until

pytest.importorskip("aiohttp", reason="needs the extra 'preview'")
pytest.importorskip("prometheus_client", reason="needs the extra 'preview'")

from prometheus_client.parser import text_string_to_metric_families

from cpsl_deploy import __version__
from cpsl_deploy.drift.sink import DriftSink
from cpsl_deploy.errors import InputError, MissingExtraError, OutputError
from cpsl_deploy.sinks.loopback import parse_address
from cpsl_deploy.sinks.preview import PreviewSink
from cpsl_deploy.streams.status import SourceStatus


class Run:
    """Sources and sinks as the engine would know them."""

    def __init__(self, *names: str) -> None:
        self.sources = [SourceStatus(name) for name in names]
        for source in self.sources:
            source.become("connected")
        self.sinks: list[dict[str, object]] = [
            {
                "name": "overlay",
                "state": "ok",
                "reason": "",
                "written": 7,
                "lost": 2,
                "failures": 1,
                "queue": 3,
            }
        ]

    def health(self) -> dict[str, Any]:
        snapshots = [source.snapshot() for source in self.sources]
        return {"sources": snapshots, "sinks": self.sinks, "model": "model.onnx"}


@contextmanager
def preview_of(run: Run, **options: Any) -> Iterator[PreviewSink]:
    preview = PreviewSink("127.0.0.1:0", health=run.health, **options)
    with nothing_left():
        preview.check()
        try:
            yield preview
        finally:
            began = time.monotonic()
            preview.close()
            assert time.monotonic() - began < 2


def get(preview: PreviewSink, path: str, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(preview.address + path.lstrip("/"), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


@contextmanager
def watching(preview: PreviewSink, path: str) -> Iterator[http.client.HTTPResponse]:
    host, _, port = preview.address[len("http://") : -1].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
    finally:
        connection.close()


def next_picture(response: http.client.HTTPResponse) -> np.ndarray:
    """Reads one part of the multipart stream."""
    assert response.readline().strip() == b"--frame"
    headers = {}
    while line := response.readline().strip():
        key, _, value = line.partition(b":")
        headers[key.lower()] = value.strip()
    assert headers[b"content-type"] == b"image/jpeg"
    data = response.read(int(headers[b"content-length"]))
    assert response.readline() == b"\r\n"
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_the_newest_frame_is_a_picture_of_its_overlay() -> None:
    with preview_of(Run("cam"), opacity=0.4, quality=95) as preview:
        assert get(preview, "/frame/cam.jpg")[0] == 503
        for index in range(4):
            preview.write(make_result(index, size=(96, 128)))
        status, data, headers = get(preview, "/frame/cam.jpg")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert headers["Cache-Control"] == "no-store"
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        expected = make_result(3, size=(96, 128)).overlay(0.4)
        assert np.abs(image.astype(int) - expected).mean() < 3


def test_large_frames_become_smaller_pictures() -> None:
    with preview_of(Run("cam"), max_width=100) as preview:
        preview.write(make_result(size=(150, 400)))
        data = np.frombuffer(get(preview, "/frame/cam.jpg")[1], np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (38, 100, 3)


def test_a_stream_shows_new_frames_and_no_frame_twice() -> None:
    with (
        preview_of(Run("cam"), opacity=0, legend=False, max_fps=1000) as preview,
        watching(preview, "/stream/cam.mjpeg") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        for index in range(5):
            preview.write(make_result(index))
            assert next_picture(response).mean() == pytest.approx(20 * index, abs=2)
        preview.write(make_result(10))
        assert next_picture(response).mean() == pytest.approx(200, abs=2)


def test_nothing_is_encoded_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    with preview_of(Run("cam"), max_fps=1000) as preview:
        encode = preview.pictures.encode
        monkeypatch.setattr(preview.pictures, "encode", lambda name: (encoded.append(name), encode(name))[1])
        for index in range(50):
            preview.write(make_result(index))
        assert encoded == []
        with (
            watching(preview, "/stream/cam.mjpeg") as first,
            watching(preview, "/stream/cam.mjpeg") as second,
        ):
            for response in (first, second):
                next_picture(response)
        assert set(encoded) == {"cam"}
        wait_until(lambda: not preview._server._waiting, 10)  # a client that has gone is let go
        before = len(encoded)
        for index in range(50):
            preview.write(make_result(index))
        assert len(encoded) == before


def test_a_client_that_takes_nothing_holds_nobody_back() -> None:
    """Not the run, not another client, not the end."""
    run = Run("cam")
    with preview_of(run, max_fps=1000, quality=95) as preview:
        results = [make_result(index, size=(480, 640), noise=True) for index in range(4)]
        with watching(preview, "/stream/cam.mjpeg"), watching(preview, "/stream/cam.mjpeg") as reading:
            seen, slowest = 0, 0.0
            for index in range(60):
                began = time.monotonic()
                preview.write(results[index % 4])
                slowest = max(slowest, time.monotonic() - began)
                if index % 4 == 0:
                    seen += next_picture(reading).shape == (480, 640, 3)
            assert seen == 15
            assert slowest < 0.5
            assert get(preview, "/health")[0] == 200
            began = time.monotonic()
            preview.close()
            assert time.monotonic() - began < 2


def test_more_clients_than_allowed_are_sent_away_and_may_come_back() -> None:
    with preview_of(Run("cam"), max_clients=2, max_fps=1000) as preview:
        preview.write(make_result())
        with watching(preview, "/stream/cam.mjpeg") as first, watching(preview, "/stream/cam.mjpeg"):
            next_picture(first)
            wait_until(lambda: len(preview._server._waiting) == 2)
            status, text, headers = get(preview, "/stream/cam.mjpeg")
            assert (status, headers["Retry-After"]) == (503, "5")
            assert b"2 clients" in text
            assert get(preview, "/health")[0] == 200

        def accepted() -> bool:
            preview.write(make_result())
            with watching(preview, "/stream/cam.mjpeg") as again:
                return again.status == 200

        wait_until(accepted)


def test_a_client_that_takes_nothing_for_long_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpsl_deploy.sinks.preview_server._STUCK_S", 0.2)
    with preview_of(Run("cam"), max_fps=1000, quality=100) as preview:
        result = make_result(size=(960, 1280), noise=True)
        with watching(preview, "/stream/cam.mjpeg"):
            wait_until(lambda: preview._server._waiting)

            def gone() -> bool:
                preview.write(result)
                return not preview._server._waiting

            wait_until(gone)


def status_of(preview: PreviewSink) -> tuple[int, str]:
    status, text, _ = get(preview, "/health")
    return status, json.loads(text)["status"]


def test_health_says_whether_every_source_is_there() -> None:
    run = Run("front", "rear")
    with preview_of(run) as preview:
        status, text, headers = get(preview, "/health")
        health = json.loads(text)
        assert (status, health["status"]) == (200, "ok")
        assert headers["Content-Type"].startswith("application/json")
        assert [source["name"] for source in health["sources"]] == ["front", "rear"]
        assert health["sinks"] == run.sinks
        assert (health["model"], health["version"]) == ("model.onnx", __version__)
        assert health["uptime_s"] >= 0
        run.sources[1].become("stalled", "no frame for 5 s")
        status, text, _ = get(preview, "/health")
        assert (status, json.loads(text)["status"]) == (503, "degraded")
        assert json.loads(text)["sources"][1]["reason"] == "no frame for 5 s"
        run.sources[1].become("resumed")
        assert status_of(preview) == (200, "ok")
        for source in run.sources:
            source.become("reconnecting", "connection refused")
        assert status_of(preview) == (503, "down")
        run.sources.clear()
        assert status_of(preview) == (503, "down")


def test_health_says_whether_every_sink_works() -> None:
    run = Run("cam")
    run.sinks.append({"name": "areas", "state": "closed", "reason": ""})
    with preview_of(run) as preview:
        assert status_of(preview) == (200, "ok")
        run.sinks[0].update(state="failed", reason="the disk is full")
        assert status_of(preview) == (503, "degraded")
        assert json.loads(get(preview, "/health")[1])["sinks"][0]["reason"] == "the disk is full"
        run.sources[0].become("stalled")
        assert status_of(preview) == (503, "down")
        run.sources[0].become("resumed")
        run.sinks[0].update(state="ok", reason="", busy_s=9.0)
        assert status_of(preview) == (200, "ok")
        run.sinks[0].update(busy_s=11.0)
        assert status_of(preview) == (503, "degraded")


def metrics_of(preview: PreviewSink) -> dict[tuple[str, ...], float]:
    """Values by name and sorted label values; each is there once."""
    status, text, headers = get(preview, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    samples = [
        ((sample.name, *sorted(sample.labels.values())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    found = dict(samples)
    assert len(found) == len(samples), "a metric is there twice"
    return found


def test_metrics_are_what_prometheus_reads() -> None:
    run = Run("front", 'a "quoted\\ name')
    front = run.sources[0]
    front.count(received=10, dropped=3, corrupt=1, skipped=2, reconnects=4)
    for age_ms in (10.0, 20.0, 400.0):
        front.deliver(age_ms)
    run.sinks[0].update(state="failed", busy_s=1.5)
    with preview_of(run) as preview:
        preview.write(make_result(source="front"))
        preview.write(make_result(source="front"))
        found = metrics_of(preview)
    for name, value in (("received", 10), ("delivered", 3), ("dropped", 3), ("skipped", 2), ("corrupt", 1)):
        assert found[f"cpsl_frames_{name}_total", "front"] == value
        assert found[f"cpsl_frames_{name}_total", 'a "quoted\\ name'] == 0
    assert found["cpsl_reconnects_total", "front"] == 4
    assert found["cpsl_source_state", "connected", "front"] == 1
    assert found["cpsl_source_state", "front", "stalled"] == 0
    assert found["cpsl_frame_age_seconds", "0.5", "front"] == pytest.approx(0.02, rel=0.07)
    assert found["cpsl_frame_age_seconds", "1", "front"] == pytest.approx(0.4)
    assert found["cpsl_latency_seconds_count", "front"] == 2
    assert found["cpsl_latency_seconds_sum", "front"] == pytest.approx(0.015)
    assert found["cpsl_sink_up", "overlay"] == 0
    assert found["cpsl_sink_busy_seconds", "overlay"] == 1.5
    assert found["cpsl_sink_failures_total", "overlay"] == 1
    assert found["cpsl_sink_lost_total", "overlay"] == 2
    assert found[("cpsl_info", *sorted((__version__, "model.onnx")))] == 1
    assert found[("cpsl_uptime_seconds",)] >= 0
    if sys.platform == "linux":
        assert found[("process_resident_memory_bytes",)] > 1e6


def test_sinks_of_one_kind_are_told_apart() -> None:
    run = Run("cam")
    names = ("callback", "overlay", "callback-2", "callback")
    run.sinks[:] = [{"name": name, "state": "ok", "written": n} for n, name in enumerate(names)]
    with preview_of(run) as preview:
        found = metrics_of(preview)
        named = [sink["name"] for sink in json.loads(get(preview, "/health")[1])["sinks"]]
    assert named == ["callback", "overlay", "callback-2", "callback-3"]
    assert [found["cpsl_sink_written_total", name] for name in named] == [0, 1, 2, 3]
    assert [sink["name"] for sink in run.sinks] == list(names), "the run's own names were changed"


def test_metrics_of_drift_are_those_of_its_sink(tmp_path: Path) -> None:
    run, sink = Run("front", "rear"), DriftSink(road_reference(), keep=tmp_path)
    with preview_of(run) as preview:
        assert not [name for name, *_ in metrics_of(preview) if "drift" in name]
        run.sinks.append({"name": "drift", "state": "ok", **sink.snapshot()})
        sink.write(road_result(400, source="front", time_s=0.0))
        run.sinks[-1].update(sink.snapshot())
        found = metrics_of(preview)
        assert found["cpsl_drift_alarm", "front"] == 0
        assert ("cpsl_drift_score", "front") not in found, "there is no score yet"
        for second in range(1, 30):
            for source, gain in (("front", 1.0), ("rear", 0.4)):
                sink.write(road_result(400 + second, source=source, time_s=float(second), gain=gain))
        run.sinks[-1].update(sink.snapshot())
        found = metrics_of(preview)
    sink.close()
    assert (found["cpsl_drift_alarm", "front"], found["cpsl_drift_alarm", "rear"]) == (0, 1)
    assert found["cpsl_drift_score", "front"] < 1 < found["cpsl_drift_score", "rear"]
    assert found["cpsl_drift_score", "rear"] == sink.snapshot()["sources"]["rear"]["score"]  # type: ignore[index]
    assert (found["cpsl_drift_alarms_total", "front"], found["cpsl_drift_alarms_total", "rear"]) == (0, 1)
    assert found[("cpsl_drift_kept_frames_total",)] == len(list(tmp_path.iterdir())) > 5


def test_the_page_needs_nothing_from_elsewhere_and_trusts_no_name() -> None:
    name = "<script>alert(1)</script>&.."
    with preview_of(Run("cam", name)) as preview:
        preview.write(make_result(source=name, name="x"))
        status, text, headers = get(preview, "/")
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        page = text.decode()
        assert "<script>alert" not in page
        assert "http://" not in page
        assert "https://" not in page
        start = page.index('src="/stream/%3C')
        link = page[start + len('src="') : page.index('"', start + len('src="'))]
        with watching(preview, link) as response:
            assert response.status == 200
            assert next_picture(response).shape == (48, 64, 3)


@pytest.mark.parametrize(
    "path",
    [
        "/frame/other.jpg",
        "/frame/..%2f..%2fetc%2fpasswd.jpg",
        "/frame/%2e%2e%2fcam.jpg",
        "/stream/other.mjpeg",
        "/stream/../cam.mjpeg",
        "/etc/passwd",
        "/frame/",
    ],
)
def test_unknown_names_are_not_found(path: str) -> None:
    with preview_of(Run("cam")) as preview:
        preview.write(make_result())
        assert get(preview, path)[0] == 404


def test_pages_from_elsewhere_cannot_read_what_is_for_this_machine() -> None:
    with preview_of(Run("cam")) as preview:
        preview.write(make_result())
        for host in ("evil.example", "127.evil.example:80", "[::1", ""):
            assert get(preview, "/frame/cam.jpg", Host=host)[0] in (400, 403), host
        for host in ("localhost:8080", "127.0.0.1", "[::1]:80"):
            assert get(preview, "/frame/cam.jpg", Host=host)[0] == 200, host


def test_an_address_in_use_is_told_with_the_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        preview = PreviewSink(f"127.0.0.1:{port}", health=Run("cam").health)
        with nothing_left(), pytest.raises(OutputError, match=rf"127\.0\.0\.1:{port}.*in use.*--preview"):
            preview.check()
    with nothing_left():
        preview.check()  # it is free now
        assert preview.address == f"http://127.0.0.1:{port}/"
        assert get(preview, "/health")[0] == 200
        preview.close()
        preview.close()
    preview.write(make_result())  # after the end nothing begins again


def test_a_name_that_is_no_host_is_told() -> None:
    preview = PreviewSink("no-such-host.invalid:0", health=Run("cam").health)
    with nothing_left(), pytest.raises(OutputError, match="no-such-host"):
        preview.check()


def test_listening_for_others_is_said(caplog: pytest.LogCaptureFixture) -> None:
    preview = PreviewSink("0.0.0.0:0", health=Run("cam").health)
    with nothing_left():
        preview.check()
        assert "no password" in caplog.text
        port = int(preview.address.rstrip("/").rpartition(":")[2])
        url = f"http://127.0.0.1:{port}/health"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "box.example"})) as response:
            assert response.status == 200
        preview.close()


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("[::1]:0") == ("::1", 0)
    assert parse_address("localhost:8080") == ("localhost", 8080)
    for text in ("", ":80", "host", "host:", "::1:80", "host:65536", "host:-1", "host:8O", "host:²"):
        with pytest.raises(InputError, match="HOST:PORT"):
            parse_address(text)


def test_wrong_settings_are_refused() -> None:
    for options in ({"opacity": 2}, {"max_clients": 0}, {"max_width": 1}, {"max_fps": 0}, {"quality": 0}):
        with pytest.raises(InputError):
            PreviewSink(health=dict, **options)


@pytest.mark.parametrize("package", ["aiohttp", "prometheus_client"])
def test_without_the_extra_the_command_to_install_it_is_told(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.delitem(sys.modules, "cpsl_deploy.sinks.preview_server", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"cpsl_deploy\[preview\]"):
        PreviewSink("127.0.0.1:0", health=dict).check()


def test_starting_and_ending_many_times_leaves_nothing_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            with preview_of(Run("cam")) as preview, watching(preview, "/stream/cam.mjpeg") as response:
                preview.write(make_result())
                next_picture(response)
