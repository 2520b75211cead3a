"""The registry, model files, and what every network promises."""

import dataclasses
import errno
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from cpsl_deploy.classes import ClassSpace  # noqa: E402
from cpsl_deploy.errors import ModelFileError, OutputError, RecipeError, TrainingError  # noqa: E402
from cpsl_deploy.files import sha256  # noqa: E402
from cpsl_deploy.spec import ModelSpec  # noqa: E402
from cpsl_deploy.train.models import ARCHITECTURES, Segmenter, build, load_model, save_model  # noqa: E402

LIGHT = ("squeezenet_fpn", "ddrnet23_slim")
CLASSES = ClassSpace(("road", "sky", "car"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(0)
    return build(request.param, len(CLASSES)).eval()


@pytest.fixture
def small() -> Segmenter:
    torch.manual_seed(1)
    return build("squeezenet_fpn", len(CLASSES))


def spec_of(model: Segmenter, name: str, **changes) -> ModelSpec:
    values = {
        "architecture": name,
        "class_names": CLASSES.names,
        "palette": CLASSES.palette,
        "mean": model.mean,
        "std": model.std,
        "size": (64, 96),
        "stride": model.stride,
        "align_corners": model.align_corners,
        "provenance": {"seed": 3},
    }
    return ModelSpec(**{**values, **changes})


def test_registry_holds_the_promised_networks():
    assert set(ARCHITECTURES) >= {*LIGHT, "deeplabv2_resnet101", "deeplabv2_resnet101_bn_clr"}


def test_outputs_have_the_promised_shapes_at_odd_sizes(network: Segmenter):
    with torch.inference_mode():
        features, logits = network(torch.randn(1, 3, 65, 97))
    size = (-(-65 // network.stride), -(-97 // network.stride))
    assert features.shape == (1, network.feature_channels, *size)
    assert logits.shape == (1, len(CLASSES), *size)
    assert torch.isfinite(logits).all() and logits.std() > 0


def test_backbone_and_head_split_the_parameters(network: Segmenter):
    head, backbone = network.head_parameters(), network.backbone_parameters()
    split = [id(p) for p in head + backbone]
    assert head and backbone
    assert len(split) == len(set(split))
    assert set(split) == {id(p) for p in network.parameters()}


def test_networks_share_no_state():
    first, second = build("squeezenet_fpn", 3), build("squeezenet_fpn", 3)
    tensors = [tensor.data_ptr() for model in (first, second) for tensor in model.state_dict().values()]
    assert len(tensors) == len(set(tensors))


@pytest.mark.parametrize("name", LIGHT)
def test_every_parameter_is_trained(name: str):
    model = build(name, 3)
    model(torch.randn(2, 3, 64, 96)).logits.square().sum().backward()
    # The bias of a convolution before a batch norm has a zero gradient, but it has one.
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", LIGHT)
def test_one_stride_is_enough(name: str):
    model = build(name, 3).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, model.stride, model.stride)).logits.shape == (1, 3, 1, 1)


def test_features_are_what_the_classifier_sees_before_dropout(small: Segmenter):
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        first, second = small(image), small(image)
        assert torch.equal(first.features, second.features)
        assert not torch.equal(first.logits, second.logits)
        features, logits = small.eval()(image)
        assert torch.allclose(small.classifier(features), logits)


def test_ddrnet_says_that_one_image_is_too_small_a_batch():
    with pytest.raises(TrainingError, match="2 images or more"):
        build("ddrnet23_slim", 3)(torch.randn(1, 3, 64, 64))


def test_ddrnet_has_the_published_size():
    assert sum(p.numel() for p in build("ddrnet23_slim", 19).parameters()) == pytest.approx(5.7e6, rel=0.01)


@pytest.mark.parametrize("name", LIGHT)
def test_a_saved_model_comes_back(tmp_path: Path, name: str):
    model = build(name, len(CLASSES))
    model(torch.randn(2, 3, 64, 64))  # moves the running statistics away from their initial values
    spec = spec_of(model, name)
    path = tmp_path / "model.safetensors"
    save_model(path, model, spec)
    loaded, loaded_spec = load_model(path)
    assert not loaded.training
    assert loaded_spec == dataclasses.replace(spec, weights_sha256=sha256(path))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(image).logits, model.eval()(image).logits)
    assert list(tmp_path.iterdir()) == [path]


def test_saving_again_does_not_carry_the_old_hash(tmp_path: Path, small: Segmenter):
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    save_model(paths[0], small, spec_of(small, "squeezenet_fpn"))
    save_model(paths[1], *load_model(paths[0]))
    assert sha256(paths[0]) == sha256(paths[1])


def test_a_model_file_is_also_a_start(tmp_path: Path, small: Segmenter):
    path = tmp_path / "model.safetensors"
    save_model(path, small, spec_of(small, "squeezenet_fpn"))
    started = build("squeezenet_fpn", len(CLASSES), init=path)
    assert started.training
    assert torch.equal(started.classifier.weight, small.classifier.weight)
    with pytest.raises(ModelFileError, match=r"of another shape: classifier\.weight \(3, 96, 1, 1\) instead"):
        build("squeezenet_fpn", 5, init=path)


def test_unknown_architecture_lists_the_known():
    with pytest.raises(RecipeError, match=r"'unet'.*squeezenet_fpn, ddrnet23_slim"):
        build("unet", 3)


def test_no_classes_are_refused():
    with pytest.raises(RecipeError, match="got 0"):
        build("squeezenet_fpn", 0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architecture": "unet"}, "'unet'"),
        ({"class_names": ("road", "sky"), "palette": ()}, "number of classes is 2 and the model's is 3"),
        ({"stride": 8}, "stride is 8 and the model's is 4"),
    ],
)
def test_a_spec_of_another_model_is_refused(tmp_path: Path, small: Segmenter, changes: dict, told: str):
    with pytest.raises(ModelFileError, match=told):
        save_model(tmp_path / "model.safetensors", small, spec_of(small, "squeezenet_fpn", **changes))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, small: Segmenter, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, small, spec_of(small, "squeezenet_fpn"))
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_model(path, small, spec_of(small, "squeezenet_fpn"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, small: Segmenter):
    good = tmp_path / "good.safetensors"
    save_model(good, small, spec_of(small, "squeezenet_fpn"))
    data = good.read_bytes()
    torch.save(small.state_dict(), tmp_path / "weights.pt")
    zipped = (tmp_path / "weights.pt").read_bytes()
    cases = {
        "truncated.safetensors": (data[:-100], "damaged"),
        "header.safetensors": (data[:50], "damaged"),
        "empty.safetensors": (b"", "damaged"),
        "empty.pt": (b"", "damaged"),
        "stack.pt": (b"\x80\x02ab.", "read safely|damaged"),
        "text.pt": (b"not weights at all", "read safely|damaged"),
        "picture.pth": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "read safely|damaged"),
        "truncated.pt": (zipped[: len(zipped) // 2], "damaged"),
        "weights.pt": (zipped, "no spec"),
    }
    for name, (content, told) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=told) as caught:
            load_model(path)
        assert name in str(caught.value)
    with pytest.raises(ModelFileError, match=r"absent\.safetensors"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(ModelFileError, match="is not one"):
        load_model(tmp_path)


def test_weights_of_another_network_do_not_pass_for_this_one(tmp_path: Path, small: Segmenter):
    spec = spec_of(small, "squeezenet_fpn")
    state = {key: value for key, value in small.state_dict().items() if key != "classifier.bias"}
    path = tmp_path / "model.safetensors"
    save_file(state | {"extra": torch.zeros(1)}, path, metadata={"cpsl_deploy": spec.to_json()})
    with pytest.raises(ModelFileError, match=r"missing: classifier\.bias; unknown: extra"):
        load_model(path)
    save_file(state, path, metadata={"cpsl_deploy": dataclasses.replace(spec, architecture="unet").to_json()})
    with pytest.raises(ModelFileError, match=r"'unet'.*pip install"):
        load_model(path)


def test_a_weights_file_cannot_run_code(tmp_path: Path):
    marker = tmp_path / "marker"

    class Attack:
        def __reduce__(self):
            return Path.touch, (marker,)

    (tmp_path / "attack.pt").write_bytes(pickle.dumps({"state_dict": Attack()}))
    with pytest.raises(ModelFileError, match="read safely"):
        build("squeezenet_fpn", 3, init=tmp_path / "attack.pt")
    assert not marker.exists()
