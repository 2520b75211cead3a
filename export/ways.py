"""In which ways a chosen file may be run: those that keep the budget, for its metadata and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpsl_deploy.backends.ways import RUNNABLE, Way
from cpsl_deploy.errors import ModelFileError, UnavailableError
from cpsl_deploy.train.engine.loop import Watcher

from .candidates import Candidate, candidates_here
from .gate.judge import Verdict
from .trials import Trial, Tribunal
from .workshop import Workshop


@dataclass(frozen=True, kw_only=True)
class JudgedWay:
    """A way of running the file in place, and the gate's verdict on it."""

    way: Way
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "name": self.way.name,
            "passed": self.verdict.passed,
            "agreement": round(self.verdict.agreement.share, 6),
            "broken": list(self.verdict.broken),
        }


def way_of(candidate: Candidate) -> Way | None:
    """None for an engine, which is a file of its own."""
    if candidate.backend not in RUNNABLE:
        return None
    return Way(backend=candidate.backend, device=candidate.device, precision=candidate.backend_precision)


def judged_ways(
    best: Trial, trials: Sequence[Trial], workshop: Workshop, tribunal: Tribunal, watcher: Watcher
) -> tuple[JudgedWay, ...]:
    """The ways of running the chosen file that were tried, its own first, and if it was the only trial those
    that need no other file and compute otherwise, which are judged now.

    Not among these is OpenVINO's f32 of a float32 file: it computes what onnxruntime does. Ways that turn out
    not to run here are left out, with a message.
    """
    of_file = [best, *(trial for trial in trials if trial.path == best.path and trial is not best)]
    judged = [JudgedWay(way=way, verdict=t.gated.verdict) for t in of_file if (way := way_of(t.candidate))]
    for candidate in _untried(best.candidate) if len(trials) == 1 else ():
        way = way_of(candidate)
        assert way is not None
        watcher.message(f"{way.name}: comparing the file with the model, run that way")
        try:
            with workshop.open(candidate) as segmenter:
                verdict = tribunal.judge(segmenter, candidate.backend_precision)
        except (UnavailableError, ModelFileError) as error:
            watcher.message(f"{way.name} is left out: {error}")
            continue
        judged.append(JudgedWay(way=way, verdict=verdict))
    return tuple(judged)


def passed_ways(judged: Sequence[JudgedWay]) -> tuple[Way, ...]:
    return tuple(each.way for each in judged if each.verdict.passed)


def _untried(tried: Candidate) -> list[Candidate]:
    exact = Candidate(backend="openvino", backend_precision="f32")
    return [
        candidate
        for candidate in candidates_here()
        if (candidate.precision, candidate.scheme) == (tried.precision, tried.scheme)
        and candidate.device == "cpu"
        and candidate.backend in RUNNABLE
        and candidate not in (tried, exact)
    ]
