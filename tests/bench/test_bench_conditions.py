"""How busy the machine was: readings made by hand, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bench_records import complete_record

from cpsl_deploy.bench.conditions import Conditions, Counters, counter_reader
from cpsl_deploy.bench.record import record_schema
from cpsl_deploy.bench.report.headline import headline
from cpsl_deploy.bench.report.markdown import markdown


def readings(*counters: tuple[float, float, float | None, float | None]) -> Callable[[], Counters]:
    steps = iter(counters)

    def read() -> Counters:
        wall, cpu, waited, stolen = next(steps)
        return Counters(wall_s=wall, cpu_s=cpu, waited_s=waited, stolen_s=stolen)

    return read


def test_a_part_is_the_difference_of_two_readings() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    loads = iter([0.5, 3.0])
    read = readings((10, 5, 1, 0.5), (20, 20, 3, 0.6), (20, 20, None, None), (24, 22, None, None))
    conditions = Conditions(read, lambda: next(loads))
    with conditions.part("latency"):
        pass
    with conditions.part("stream"):
        pass
    section = conditions.to_json()
    assert section["load_average_before"] == 0.5 and section["load_average_after"] == 3.0
    assert section["parts"]["latency"] == {
        "seconds": 10, "cpu_cores_used": 1.5, "waited_share": 0.2, "stolen_share": pytest.approx(0.01),
    }  # fmt: skip
    assert section["parts"]["stream"] == {
        "seconds": 4, "cpu_cores_used": 0.5, "waited_share": None, "stolen_share": None,
    }  # fmt: skip
    (note,) = conditions.notes()
    assert "While latency was measured" in note and "0.20 of the time" in note
    jsonschema.validate(section, record_schema()["properties"]["conditions"])


def test_scores_take_no_harm_from_waiting() -> None:
    conditions = Conditions(readings((0, 0, 0.0, 0), (10, 10, 9.0, 0)), lambda: None)
    with conditions.part("accuracy"):
        pass
    assert list(conditions.notes()) == [] and conditions.parts["accuracy"].waited_share == 0.9


def test_stolen_time_is_noted_and_a_little_waiting_is_not() -> None:
    conditions = Conditions(readings((0, 0, 1.0, 0), (10, 10, 1.4, 2)), lambda: None)
    with conditions.part("load"):
        pass
    (note,) = conditions.notes()
    assert note.startswith("Other virtual machines took 0.20") and "load" in note


def test_threads_that_ended_take_their_waiting_with_them() -> None:
    conditions = Conditions(readings((0, 0, 5.0, 0), (10, 10, 1.0, 0)), lambda: None)
    with conditions.part("load"):
        pass
    assert conditions.parts["load"].waited_share == 0


def test_this_machine_is_read() -> None:
    read = counter_reader()
    first, second = read(), read()
    assert second.wall_s >= first.wall_s and second.cpu_s >= first.cpu_s


def test_a_report_shows_no_fraction_of_disturbed_rates_as_sound() -> None:
    record = complete_record()
    assert any(figure.title == "of the roofline" for figure in headline(record))
    record["roofline"]["rates"]["disturbed"] = True
    assert not any(figure.title == "of the roofline" for figure in headline(record))
    page = markdown(record)
    assert "no share of the limit can be relied on" in page and "% of the limit is reached" not in page
