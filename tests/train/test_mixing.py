"""Mixing: CutMix pastes half the area as one rectangle, class mixing pastes whole classes."""

# ruff: noqa: E402
import pytest

torch = pytest.importorskip("torch")

from cpsl_deploy.classes import IGNORE
from cpsl_deploy.errors import RecipeError
from cpsl_deploy.train.mixing import paste_mask


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(*classes: int, size: tuple[int, int] = (40, 60)) -> torch.Tensor:
    """One label map of equally wide stripes of the given classes."""
    stripes = torch.tensor(classes).repeat_interleave(size[1] // len(classes))
    return stripes.expand(size).contiguous()


@pytest.mark.parametrize("size", [(64, 64), (56, 72), (33, 91)])
def test_cutmix_is_one_rectangle_of_half_the_area(size: tuple[int, int]):
    masks = paste_mask("cutmix", torch.zeros(60, *size, dtype=torch.long), generator(0))
    for mask in masks:
        rows, columns = mask.any(dim=1).sum(), mask.any(dim=0).sum()
        assert mask.sum() == rows * columns
    area = masks.float().mean(dim=(1, 2))
    assert (area - 0.5).abs().max() < 0.03
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in masks}) > 20, "places differ"
    assert len({int(mask.any(dim=0).sum()) for mask in masks}) > 10, "shapes differ"


def test_classmix_pastes_whole_classes_half_of_those_present():
    labels = torch.stack([labels_of(0, 3, 5, IGNORE), labels_of(1, 2, 7, 9)])
    for seed in range(20):
        for mask, label in zip(paste_mask("classmix", labels, generator(seed)), labels, strict=True):
            pasted = set(label[mask].tolist())
            assert pasted and not pasted & set(label[~mask].tolist())
            assert IGNORE not in pasted
            assert len(pasted) == 2


def test_classmix_chooses_every_class_at_times():
    labels = labels_of(0, 3, 5, 8)[None]
    chosen = {int(c) for seed in range(30) for c in labels[paste_mask("classmix", labels, generator(seed))]}
    assert chosen == {0, 3, 5, 8}


def test_classmix_of_an_unlabelled_crop_pastes_nothing():
    assert not paste_mask("classmix", torch.full((1, 8, 8), IGNORE), generator(0)).any()


def test_no_mixing_pastes_nothing():
    assert not paste_mask("none", torch.zeros(2, 8, 8, dtype=torch.long), generator(0)).any()


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_the_mask_follows_the_generator(kind: str):
    labels = labels_of(0, 1, 2, 3, 4, 5).expand(3, -1, -1)
    first, again, other = (paste_mask(kind, labels, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(RecipeError, match="classmix"):
        paste_mask("clasmix", torch.zeros(1, 8, 8, dtype=torch.long), generator(0))
