"""Sustained runs on pretended machines: they heat up, are steady, are noisy, leak, or are stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_onnx import write_tiny_onnx

from cpsl_deploy import load
from cpsl_deploy.bench.frames import EncodedFrame, synthetic_frames
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.bench.sustained import measure_sustained
from cpsl_deploy.bench.sustained_result import Sustained, robust_slope
from cpsl_deploy.errors import InputError
from cpsl_deploy.machine import Reading, Sensors, Unavailable
from cpsl_deploy.machine.throttling import slowdown, throttle_reasons

GB = 1 << 30


class Now(Executor):
    """Runs what it is given at once: a pretended clock knows no threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Machine:
    """A segmenter, its sensors and their clock, in seconds. A frame takes 50 ms at full clock."""

    unavailable = (Unavailable(sensor="RAPL", reason="not in this test"),)

    def __init__(
        self, *, throttled_s: tuple[float, float] = (1e9, 1e9), noise: float = 0.0, **fixed: Any
    ) -> None:
        self.now = 100.0
        self.frames = 0
        self.throttled_s = throttled_s
        self.noise = noise
        self.fixed = fixed
        self.limits: dict[str, float] = {}
        self.leak_bytes_per_s = 0.0
        self.stop_at_frame = -1
        self._random = np.random.default_rng(0)
        self._start = self.now

    @property
    def temperature_limits_c(self) -> dict[str, float]:
        return self.limits

    @property
    def speed(self) -> float:
        """Share of the full clock."""
        begin, end = self.throttled_s
        return 0.7 if begin < self.now - self._start < end else 1.0

    def jitter(self) -> float:
        return 1 + self.noise * float(self._random.exponential())

    def predict(self, image: np.ndarray) -> None:
        if self.frames == self.stop_at_frame:
            self.stop_at_frame = -1
            raise KeyboardInterrupt
        self.now += 0.050 / self.speed * self.jitter()
        self.frames += 1

    def read(self) -> Reading:
        passed = self.now - self._start
        values: dict[str, Any] = {
            "power_w": {"VDD_IN": 20.0},
            "clock_mhz": {"gpu": 1000.0 * self.speed / self.jitter()},
            "temperature_c": {"gpu-thermal": min(40 + passed, 98.0)},
            "process_bytes": int(2 * GB + self.leak_bytes_per_s * passed),
        }
        return Reading(**(values | self.fixed))

    def clock(self) -> float:
        return self.now

    def run(self, minutes: float = 2.0, **arguments: Any) -> Sustained:
        frame = EncodedFrame(name="grey", read=lambda: b"")
        object.__setattr__(frame, "decode", lambda encoded: np.zeros((2, 2, 3), np.uint8))
        given = {"interval_s": 1.0, "executor": Now(), **arguments}
        given |= {"sensors": self, "clock": self.clock}
        return measure_sustained(self, [frame], minutes=minutes, **given)  # type: ignore[arg-type]


def test_a_machine_that_heats_up_is_flagged() -> None:
    run = Machine(throttled_s=(45, 1e9)).run()
    section = run.to_json()
    assert section["throttled"]
    assert section["slowdown"] == pytest.approx(1 / 0.7, rel=1e-3)
    (reason,) = section["throttle_reasons"]
    assert reason.startswith("clock gpu at 0.70 times its start while latency was 1.43 times")
    assert any(reason in note and "does not last" in note for note in run.notes)


def test_a_machine_that_recovers_is_flagged_all_the_same() -> None:
    assert Machine(throttled_s=(40, 75)).run().throttle_reasons


def test_a_steady_machine_is_not_flagged() -> None:
    run = Machine().run()
    section = run.to_json()
    assert (section["throttled"], section["throttle_reasons"], run.notes) == (False, [], ())
    assert section["slowdown"] == pytest.approx(1.0)
    assert section["frames"] == pytest.approx(2400, abs=3) and section["minutes"] == pytest.approx(
        2.0, abs=0.01
    )
    series = section["series"]
    assert len({len(series[name]) for name in ("t_s", "p50_ms", "p99_ms", "fps", "process_bytes")}) == 1
    assert len(series["t_s"]) == pytest.approx(115, abs=6)
    assert series["p50_ms"][0] == pytest.approx(50.0) and series["fps"][-1] == pytest.approx(20.0)
    assert series["device_bytes"] is None
    assert section["energy_per_frame_j"] == pytest.approx({"VDD_IN": 20.0 * 0.050}, rel=0.01)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_a_noisy_machine_is_not_flagged(noise: float) -> None:
    machine = Machine(noise=noise)
    for _ in range(5):
        assert not machine.run().throttle_reasons


def test_every_frame_counts_and_is_run_once() -> None:
    machine = Machine()
    run = machine.run()
    assert run.frames == machine.frames


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"throttle_reasons": ("GPU: software power cap",)}, "software power cap in 3 of 3 readings"),
        ({"throttle_counts": {"oc": 4.0}}, {"throttle_counts": {"oc": 6.0}}, "oc: 2 more than at the start"),
        ({"throttle_counts": {"oc": 4.0}}, {"throttle_counts": {"oc": 4.0}}, None),
        ({}, {"throttle_counts": {"oc": 6.0}}, None),
        ({"lost_s": {"quota": 7.0}}, {"lost_s": {"quota": 8.5}}, "quota: 1.5 s without a processor in 100 s"),
        ({"lost_s": {"quota": 7.0}}, {"lost_s": {"quota": 7.9}}, None),
        ({}, {"temperature_c": {"gpu": 92.0}}, "temperature gpu reached 92.0 °C and its limit is 92.0 °C"),
        ({}, {"temperature_c": {"gpu": 91.0, "cpu": 99.0}}, None),
    ],
)
def test_each_sign_of_throttling(before: Any, after: Any, said: str | None) -> None:
    found = throttle_reasons(
        Reading(**before),
        [Reading(**after)] * 3,
        [50.0, 50.0, 50.0],
        seconds=100.0,
        temperature_limits_c={"gpu": 92.0},
    )
    assert (len(found) == 1 and said in found[0]) if said else not found


def test_a_clock_alone_or_a_latency_alone_is_no_sign() -> None:
    def reasons(clocks: list[float], latency: list[float]) -> tuple[str, ...]:
        readings = [Reading(clock_mhz={"gpu": clock}) for clock in clocks]
        return throttle_reasons(Reading(), readings, latency, seconds=10.0, temperature_limits_c={})

    assert not reasons([1000.0] * 5 + [500.0] * 5, [50.0] * 10), "less to do, so the clock rests"
    assert not reasons([1000.0] * 10, [50.0] * 5 + [90.0] * 5), "something else slowed it"
    assert reasons([1000.0] * 5 + [900.0] * 5, [50.0] * 5 + [56.0] * 5)
    assert not reasons([], [])


def test_slowdown() -> None:
    assert slowdown([]) is None and slowdown([50.0]) is None
    assert slowdown([50.0, 60.0]) == pytest.approx(1.2)
    assert slowdown([50.0] * 4 + [100.0]) == pytest.approx(2.0)
    assert slowdown([60.0] * 2 + [50.0] * 8) == pytest.approx(50 / 60)
    assert slowdown([50.0] * 28 + [500.0] * 2) == pytest.approx(1.0), "two outliers are no slowdown"


def test_latency_that_rises_without_a_sign_is_said() -> None:
    run = Machine(throttled_s=(45, 1e9), clock_mhz={}).run()
    assert not run.throttle_reasons
    assert any("1.43 times its start" in note and "no clock could be read" in note for note in run.notes)


@pytest.mark.parametrize(("share", "said"), [(0.0, False), (0.04, False), (0.5, True)])
def test_waiting_for_cores_is_said_and_is_no_throttling(share: float, said: bool) -> None:
    machine = Machine()
    machine.read = lambda: Reading(waited_s=7 + share * (machine.now - 100))  # type: ignore[method-assign]
    run = machine.run()
    assert not run.throttle_reasons
    assert run.waited_s == pytest.approx(share * 120, rel=0.01)
    assert any("for a core" in note for note in run.notes) == said


def test_energy_counter_is_preferred_to_power() -> None:
    machine = Machine()
    read = machine.read
    machine.read = lambda: Reading(  # type: ignore[method-assign]
        power_w=dict.fromkeys(["gpu", "VDD_IN"], 20.0), energy_j={"gpu": 30.0 * (machine.now - 100)}
    )
    assert machine.run().energy_per_frame_j == pytest.approx({"gpu": 1.5, "VDD_IN": 1.0}, rel=0.01)
    machine.read = lambda: Reading(process_bytes=read().process_bytes)  # type: ignore[method-assign]
    assert machine.run().energy_per_frame_j is None


def test_energy_of_a_power_that_changes() -> None:
    """A ramp from 0 to 40 W: its mean is 20 W."""
    machine = Machine()
    machine.read = lambda: Reading(power_w={"VDD_IN": (machine.now - 100) / 3})  # type: ignore[method-assign]
    assert machine.run().energy_per_frame_j == pytest.approx({"VDD_IN": 1.0}, rel=0.02)


def test_growth_of_memory() -> None:
    machine = Machine()
    assert machine.run().memory_growth_bytes_per_hour == 0
    machine.leak_bytes_per_s = 1000.0
    assert machine.run().memory_growth_bytes_per_hour == pytest.approx(3.6e6, rel=0.01)
    assert machine.run(minutes=0.5).memory_growth_bytes_per_hour is None, "too short"
    settles = Machine()
    settles.read = lambda: Reading(  # type: ignore[method-assign]
        process_bytes=GB if settles.now < 120 else 2 * GB
    )
    assert settles.run().memory_growth_bytes_per_hour == 0, "it grew in the first fifth and no more"


def test_robust_slope_ignores_outliers() -> None:
    points = [(float(x), 5.0 * x + (1e9 if x % 5 == 0 else 0)) for x in range(1000)]
    assert robust_slope(points) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("stop", [1, 7, 250])
def test_ctrl_c_keeps_what_was_measured(stop: int) -> None:
    machine = Machine()
    machine.stop_at_frame = stop
    run = machine.run()
    assert run.interrupted and run.frames == machine.frames == stop
    assert run.seconds == pytest.approx(0.05 * stop)
    assert any("ended by hand" in note for note in run.notes)


def test_ctrl_c_before_the_first_frame_ends_it() -> None:
    machine = Machine()
    machine.stop_at_frame = 0
    with pytest.raises(KeyboardInterrupt):
        machine.run()


@pytest.mark.parametrize("arguments", [{"minutes": 0}, {"minutes": -1.0}, {"interval_s": -1.0}])
def test_times_are_above_0(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        Machine().run(**arguments)


def test_no_frames() -> None:
    machine = Machine()
    with pytest.raises(InputError, match="at least one frame"):
        measure_sustained(machine, [], minutes=1.0, sensors=machine)  # type: ignore[arg-type]


def test_a_real_run_fits_the_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    frames = synthetic_frames((96, 160), count=2)
    seen: list[tuple[str, int, int]] = []
    with load(write_tiny_onnx(tmp_path / "tiny.onnx"), threads=1) as segmenter, Sensors.find() as sensors:
        run = measure_sustained(
            segmenter,
            frames,
            minutes=0.015,
            interval_s=0.1,
            sensors=sensors,
            progress=lambda *step: seen.append(step),
        )
    section = json.loads(json.dumps(run.to_json(), allow_nan=False))
    schema = record_schema()
    jsonschema.validate(section, {**schema["properties"]["sustained"], "$defs": schema["$defs"]})
    assert section["frames"] >= len(section["series"]["t_s"]) >= 2 and not run.interrupted
    assert seen[-1] == ("sustained", 0, 0)
