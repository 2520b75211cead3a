"""Networks against the published implementations, and starts from published weight files."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from formula_weights import fill  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_domains import write_domain, write_recipe  # noqa: E402

from cpsl_deploy.data import open_dataset  # noqa: E402
from cpsl_deploy.errors import ModelFileError  # noqa: E402
from cpsl_deploy.train.adaptation import Adaptation  # noqa: E402
from cpsl_deploy.train.domains import join_domains  # noqa: E402
from cpsl_deploy.train.models import build, load_model, load_published  # noqa: E402
from cpsl_deploy.train.recipe import load_recipe  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SHARED_SQUEEZENET = (
    Path(__file__).parent.parent.parent / "shared" / "weights" / "squeezenet1_1_imagenet.safetensors"
)
PUBLISHED = {
    "deeplabv2_resnet101": "deeplabv2",
    "deeplabv2_resnet101_bn_clr": "deeplabv2_bn_clr",
    "ddrnet23_slim": "ddrnet23_slim",
}


def constant_state(name: str, value: float) -> dict[str, torch.Tensor]:
    """Every key of a published state dict with all its elements alike, so that a file of it is small."""
    shapes = json.loads((GOLDEN / f"{PUBLISHED[name]}_state_dict_shapes.json").read_text())
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.tensor(value).expand(shape)
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_forward_are_the_published_ones(name: str):
    golden = np.load(GOLDEN / f"{PUBLISHED[name]}_forward.npz")
    shapes = json.loads((GOLDEN / f"{PUBLISHED[name]}_state_dict_shapes.json").read_text())
    model = build(name, 19).eval()
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == shapes

    fill(model)
    with torch.inference_mode():
        features, logits = model(torch.from_numpy(golden["image"]).float())
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    if "feat" in golden:
        np.testing.assert_allclose(features[:, ::16], golden["feat"], atol=1e-4)
        np.testing.assert_allclose(features.mean((2, 3)), golden["feat_mean"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "with_prototypes"), [("deeplabv2_resnet101", True), ("deeplabv2_resnet101_bn_clr", False)]
)
def test_a_published_checkpoint_loads_with_its_prototypes(tmp_path: Path, name: str, with_prototypes: bool):
    network = {"model_state": constant_state(name, 0.25)}
    network["model_state"]["layer5.head.1.weight"] = torch.full((16, 256, 1, 1), 0.5)
    if with_prototypes:
        network["prototypes_ema"] = torch.rand(16, 256)
    path = tmp_path / "published.pkl"
    torch.save({"ResNet101": network, "iter": 6000, "best_iou": np.float64(0.557)}, path)

    model, prototypes = load_published(path)
    assert not model.training and model.num_classes == 16
    assert (model.bn_pretrain is not None) == name.endswith("bn_clr")
    assert (model.layer5.head[1].weight == 0.5).all() and (model.layer4[2].conv3.weight == 0.25).all()
    if with_prototypes:
        assert torch.equal(prototypes, network["prototypes_ema"])
    else:
        assert prototypes is None


def test_a_published_checkpoint_is_refused_where_it_does_not_fit(tmp_path: Path):
    path = tmp_path / "published.pkl"
    state = constant_state("deeplabv2_resnet101", 0.25)
    torch.save({"ResNet101": {"model_state": state, "prototypes_ema": torch.zeros(3, 256)}}, path)
    with pytest.raises(ModelFileError, match=r"\(19, 256\).*\(3, 256\)"):
        load_published(path)
    with pytest.raises(
        ModelFileError, match=r"layer5\.head\.1\.weight \(19, 256, 1, 1\) instead of \(2, 256"
    ):
        build("deeplabv2_resnet101", 2, init=path)
    torch.save({"state_dict": state}, path)
    with pytest.raises(ModelFileError, match="not a published checkpoint"):
        load_published(path)


@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "deeplabv2_resnet101_bn_clr"])
def test_a_published_checkpoint_trains_further_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """From the file to ONNX by way of a run's folder; blocks repeat, so that one of each is enough."""
    exporting = pytest.importorskip("cpsl_deploy.export", reason="needs the extra 'export'")
    monkeypatch.setattr("cpsl_deploy.train.models.deeplabv2._BLOCKS", (1, 1, 1, 1))
    torch.manual_seed(20)  # other weights than the run's own first ones
    published = build(name, 3).state_dict()
    torch.save({"ResNet101": {"model_state": published}, "iter": 6000}, tmp_path / "published.pkl")
    source, target = (open_dataset(write_domain(tmp_path / n, hue=60), "train") for n in ("game", "camera"))
    settings = {
        "model": {"teacher": name, "student": name, "init": str(tmp_path / "published.pkl")},
        "source_only": {"iterations": 1, "batch": 2, "optimiser": {"name": "sgd", "lr": 1e-5}},
    }
    recipe = load_recipe(write_recipe(tmp_path), settings)
    run = Adaptation(join_domains(source, target, None), recipe, tmp_path / "run", device="cpu").run(
        ["source_only"]
    )

    request = exporting.ExportRequest(size=(64, 64))
    exported = exporting.export(run.stage_model("source_only"), tmp_path / "published.onnx", request=request)
    assert exported.path.is_file()
    assert exported.verdict.agreement.share >= 0.999
    trained = load_model(run.stage_model("source_only"))[0].state_dict()
    assert trained.keys() == published.keys() and trained["bn1.num_batches_tracked"] == 1
    for key in ("layer4.0.conv3.weight", "layer5.bottleneck.1.weight", "layer5.head.1.weight"):
        step = (trained[key] - published[key]).abs().max()
        assert 0 < step < 0.1 * published[key].abs().max()


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_deeplab_starts_from_resnet_weights(tmp_path: Path, wrapper: str | None):
    """Torchvision's file is the bare state dict with a classifier; SimCLR exports wrap it."""
    name = "deeplabv2_resnet101_bn_clr"
    state = {
        k: v for k, v in constant_state(name, 0.25).items() if not k.startswith(("layer5.", "bn_pretrain."))
    }
    state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "resnet101.pth"
    torch.save({wrapper: state} if wrapper else state, path)
    model = build(name, 3, init=path)
    assert all((p == 0.25).all() for p in model.backbone_parameters())
    assert model.layer5.head[1].weight.std() > 0 and (model.bn_pretrain.weight == 1).all()


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_ddrnet_starts_from_its_imagenet_file(tmp_path: Path, prefix: str):
    state = {
        f"{prefix}{key}": value
        for key, value in constant_state("ddrnet23_slim", 0.25).items()
        if not key.startswith(("spp.", "final_layer."))
    }
    state |= {f"{prefix}linear.weight": torch.zeros(9), f"{prefix}last_layer.0.weight": torch.zeros(9)}
    state |= {f"{prefix}down5.0.weight": torch.zeros(9)}
    path = tmp_path / "DDRNet23s_imagenet.pth"
    torch.save({"state_dict": state}, path)
    model = build("ddrnet23_slim", 3, init=path)
    assert all((p == 0.25).all() for p in model.backbone_parameters())
    assert model.spp.scale0[2].weight.std() > 0

    del state[f"{prefix}layer4_.0.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(ModelFileError, match=r"missing: layer4_\.0\.conv1\.weight"):
        build("ddrnet23_slim", 3, init=path)


def test_ddrnet_loads_a_segmentation_checkpoint_whole(tmp_path: Path):
    state = {f"model.{key}": value for key, value in constant_state("ddrnet23_slim", 0.25).items()}
    state |= {"model.seghead_extra.conv2.bias": torch.zeros(19), "loss.criterion.weight": torch.zeros(19)}
    torch.save(state, tmp_path / "cityscapes.pth")
    model = build("ddrnet23_slim", 19, init=tmp_path / "cityscapes.pth")
    assert all((p == 0.25).all() for p in model.parameters())


def squeezenet_state() -> dict[str, torch.Tensor]:
    """Random weights under the keys of torchvision's ``squeezenet1_1``."""
    encoder = build("squeezenet_fpn", 2).features.state_dict()
    state = {f"features.{key}": torch.randn_like(value) for key, value in encoder.items()}
    return state | {
        "classifier.1.weight": torch.zeros(1000, 512, 1, 1),
        "classifier.1.bias": torch.zeros(1000),
    }


def test_squeezenet_starts_from_torchvisions_file(tmp_path: Path):
    state = squeezenet_state()
    torch.save(state, tmp_path / "squeezenet1_1.pth")
    save_file(state, tmp_path / "squeezenet1_1.safetensors")
    for path in tmp_path.iterdir():
        model = build("squeezenet_fpn", 3, init=path)
        for key, value in model.features.state_dict().items():
            assert torch.equal(value, state[f"features.{key}"])
        assert model.classifier.weight.std() > 0


def test_squeezenet_says_what_does_not_fit(tmp_path: Path):
    state = squeezenet_state()
    state["features.0.weight"] = torch.zeros(96, 3, 7, 7)  # as in SqueezeNet 1.0
    del state["features.12.squeeze.bias"]
    state["head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        ModelFileError,
        match=r"missing: 12\.squeeze\.bias; unknown: head\.weight; of another shape: 0\.weight \(96, 3,",
    ):
        build("squeezenet_fpn", 3, init=tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelFileError, match="no state dict"):
        build("squeezenet_fpn", 3, init=tmp_path / "list.pth")


@pytest.mark.skipif(not SHARED_SQUEEZENET.is_file(), reason=f"{SHARED_SQUEEZENET} is not there")
def test_shared_squeezenet_weights_fit(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        model = build("squeezenet_fpn", 3, init=SHARED_SQUEEZENET)
    assert "encoder: 722,496 parameters in 50 tensors" in caplog.text
    assert sum(p.numel() for p in model.features.parameters()) == 722_496
