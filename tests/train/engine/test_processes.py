"""What several processes do together is what one would do: pooled rows, sums, statistics, summaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from torch import nn
from two_processes import in_two_processes

from cpsl_deploy.errors import TrainingError, UnavailableError
from cpsl_deploy.train.engine import processes as procs
from cpsl_deploy.train.evaluation.network_score import evaluate
from cpsl_deploy.train.models import Segmenter, SegmenterOutput
from cpsl_deploy.train.samples import WorkingImages
from cpsl_deploy.train.target_statistics import SoftLabels, TargetSummary, summarise_target

CPU = torch.device("cpu")
SIZE = (24, 32)


class Colours(Segmenter):
    """Scores a pixel's class by its colour channel."""

    stride, feature_channels, num_classes = 1, 3, 3
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        return SegmenterOutput(image, 5 * image)


class Pictures:
    """Seven random pictures with random labels, as far as a Dataset's interface is needed."""

    def __len__(self) -> int:
        return 7

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)

    def label(self, index: int) -> np.ndarray:
        return np.random.default_rng([index, 1]).integers(0, 3, SIZE, np.uint8)


def summary(folder: Path, processes: procs.Processes | None) -> TargetSummary:
    soft_labels = SoftLabels(folder)
    return summarise_target(Colours(), WorkingImages(Pictures(), SIZE), soft_labels, CPU, processes=processes)


def work(folder: Path) -> None:
    """One of two processes; every difference from what one process computes is an AssertionError."""
    with procs.joined("cpu") as me:
        assert me.world == 2 and me.is_first == (me.rank == 0)
        assert list(me.share(7)) == ([0, 2, 4, 6] if me.is_first else [1, 3, 5])

        rows = torch.arange(4.0).reshape(2, 2) + 10 * me.rank
        everywhere = procs.gathered(rows)
        assert everywhere.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert torch.equal(procs.own_part(everywhere), rows)
        assert procs.summed(torch.tensor([1.0 + me.rank])).item() == 3
        assert procs.mean_over_processes(torch.tensor([1.0 + me.rank]), me).item() == 1.5
        assert procs.any_process(me.rank == 1, me) and not procs.any_process(False, me)

        norm = nn.BatchNorm2d(2)
        procs.require_agreement(norm, me, "here")
        norm.running_mean += me.rank
        with pytest.raises(TrainingError, match="after here theirs differ"):
            procs.require_agreement(norm, me, "here")

        together, alone = summary(folder / "together", me), summary(folder / f"alone{me.rank}", None)
        torch.testing.assert_close(together.prototypes, alone.prototypes)
        torch.testing.assert_close(together.prior, alone.prior)
        for index in range(7):
            mine = SoftLabels(folder / f"alone{me.rank}").read(index)
            assert torch.equal(SoftLabels(folder / "together").read(index), mine)

        shared = evaluate(Colours(), Pictures(), SIZE, CPU, processes=me)
        assert np.array_equal(shared.confusion, evaluate(Colours(), Pictures(), SIZE, CPU).confusion)
    assert not torch.distributed.is_initialized()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    in_two_processes(__file__, "work", tmp_path)


def test_one_process_needs_no_group() -> None:
    with procs.joined("cpu") as me:
        assert (me.rank, me.world, me.device) == (0, 1, CPU)
        rows = torch.ones(2, 2)
        assert procs.gathered(rows) is rows and procs.own_part(rows) is rows and procs.summed(rows) is rows
        assert procs.any_process(True, me) and not procs.any_process(False, me)
        procs.barrier(me)
    assert not torch.distributed.is_initialized()


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UnavailableError, match="auto, cpu, cuda; got 'gpu'"):
        procs.join("gpu")
