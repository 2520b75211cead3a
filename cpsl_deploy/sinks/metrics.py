"""What is known of a run, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import MissingExtraError
from ..streams.status import STATES

_COUNTERS = {
    "received": "Frames decoded, those dropped later too.",
    "delivered": "Frames segmented and handed on.",
    "dropped": "Frames that a newer one replaced before the model was free.",
    "skipped": "Frames left out on request.",
    "corrupt": "Frames that could not be decoded or break an input limit.",
}


class RunCollector:
    """Makes metrics from the snapshots of `SourceStatus` and `SinkWorker`, at the moment they are asked for.

    ``health`` gives ``{"sources": [...], "sinks": [...], "model": ..., "version": ..., "uptime_s": ...}``,
    each sink of a name of its own, the drift sink with its own `DriftSink.snapshot` merged in. ``latencies``
    gives (number of frames, their seconds together) by source.
    """

    def __init__(
        self,
        health: Callable[[], Mapping[str, Any]],
        latencies: Callable[[], Mapping[str, tuple[int, float]]],
    ) -> None:
        self._health, self._latencies = health, latencies

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        health = self._health()
        info = InfoMetricFamily("cpsl", "Version and model of this run.")
        info.add_metric([], {key: str(health.get(key, "")) for key in ("version", "model")})
        yield info
        uptime = GaugeMetricFamily("cpsl_uptime_seconds", "Since the run began.")
        uptime.add_metric([], float(health.get("uptime_s", 0)))
        yield uptime
        yield from _sources(health.get("sources", ()))
        yield from _sinks(health.get("sinks", ()))
        yield from _drift(health.get("sinks", ()))
        yield self._latency()

    def _latency(self) -> Any:
        from prometheus_client.core import SummaryMetricFamily

        family = SummaryMetricFamily(
            "cpsl_latency_seconds",
            "Pre-processing, inference and post-processing of the frames seen here.",
            labels=["source"],
        )
        for source, (count, seconds) in self._latencies().items():
            family.add_metric([source], count_value=count, sum_value=seconds)
        return family


def _sources(sources: Any) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text in _COUNTERS.items():
        frames = CounterMetricFamily(f"cpsl_frames_{name}", text, labels=["source"])
        for source in sources:
            frames.add_metric([source["name"]], source.get(name, 0))
        yield frames
    reconnects = CounterMetricFamily("cpsl_reconnects", "Connections after the first.", labels=["source"])
    states = GaugeMetricFamily("cpsl_source_state", "1 for the state it is in.", labels=["source", "state"])
    ages = GaugeMetricFamily(
        "cpsl_frame_age_seconds",
        "From the moment a frame was there to be read until its result, quantiles since the start.",
        labels=["source", "quantile"],
    )
    last = GaugeMetricFamily("cpsl_last_frame_seconds", "Since the last frame came.", labels=["source"])
    for source in sources:
        name = source["name"]
        reconnects.add_metric([name], source.get("reconnects", 0))
        for state in STATES:
            states.add_metric([name, state], float(source.get("state") == state))
        for key, value in (source.get("age_ms") or {}).items():
            if value is not None:
                quantile = "1" if key == "max" else str(int(key.lstrip("p")) / 100)
                ages.add_metric([name, quantile], value / 1e3)
        if source.get("last_frame_s_ago") is not None:
            last.add_metric([name], source["last_frame_s_ago"])
    yield from (reconnects, states, ages, last)


def _sinks(sinks: Any) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    up = GaugeMetricFamily("cpsl_sink_up", "1 unless the sink has failed.", labels=["sink"])
    queue = GaugeMetricFamily("cpsl_sink_queue", "Results that wait for the sink.", labels=["sink"])
    busy = GaugeMetricFamily("cpsl_sink_busy_seconds", "At the present result.", labels=["sink"])
    counters = {
        "written": CounterMetricFamily("cpsl_sink_written", "Results taken.", labels=["sink"]),
        "lost": CounterMetricFamily("cpsl_sink_lost", "Not written, or lost with a file.", labels=["sink"]),
        "failures": CounterMetricFamily("cpsl_sink_failures", "Times that it failed.", labels=["sink"]),
    }
    for sink in sinks:
        name = [sink["name"]]
        up.add_metric(name, float(sink.get("state") != "failed"))
        queue.add_metric(name, sink.get("queue", 0))
        busy.add_metric(name, sink.get("busy_s", 0))
        for key, family in counters.items():
            family.add_metric(name, sink.get(key, 0))
    yield from (up, queue, busy, *counters.values())


def _drift(sinks: Any) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    score = GaugeMetricFamily(
        "cpsl_drift_score",
        "How far what is seen is from the reference; 1 is the threshold.",
        labels=["source"],
    )
    alarm = GaugeMetricFamily(
        "cpsl_drift_alarm", "1 while the model does not fit what it sees.", labels=["source"]
    )
    alarms = CounterMetricFamily("cpsl_drift_alarms", "Times that the alarm went on.", labels=["source"])
    kept = CounterMetricFamily("cpsl_drift_kept_frames", "Frames kept during alarms.")
    for sink in sinks:
        if not isinstance(sink.get("sources"), Mapping):
            continue  # no drift sink
        for source, state in sink["sources"].items():
            if state["score"] is not None:
                score.add_metric([source], state["score"])
            alarm.add_metric([source], float(state["alarm"]))
            alarms.add_metric([source], state["alarms"])
        if sink.get("ring"):
            kept.add_metric([], sink["ring"]["kept"])
        break  # a run has one: a second one's sources would be the same to whoever reads this
    yield from (family for family in (score, alarm, alarms, kept) if family.samples)


def make_registry(collector: RunCollector) -> Any:
    """A registry of this run alone, with the process's memory, time and open files where it can tell them.

    Raises MissingExtraError without prometheus_client.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError as error:
        raise MissingExtraError("prometheus-client", "preview", "the preview") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def metrics_text(registry: Any) -> tuple[bytes, str]:
    """(text, content type)."""
    from prometheus_client import generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    return generate_latest(registry), CONTENT_TYPE_LATEST
