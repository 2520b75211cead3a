"""The loop: seeds, order, rates, interruption, resumption bit for bit, and no broken checkpoint."""

# ruff: noqa: E402
import contextlib
import dataclasses
import signal
import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_training import tiny_batch, tiny_network
from two_processes import in_two_processes

from cpsl_deploy.errors import ModelFileError, TrainingError
from cpsl_deploy.train import recipe
from cpsl_deploy.train.engine import processes as procs
from cpsl_deploy.train.engine.checkpoint import read_checkpoint
from cpsl_deploy.train.engine.loop import Surroundings, interruptible, prefetched, step_seed, train
from cpsl_deploy.train.engine.processes import Processes
from cpsl_deploy.train.self_labelling import SelfLabelling
from cpsl_deploy.train.source_only import Supervised
from cpsl_deploy.train.stage import TrainingStage
from cpsl_deploy.train.target_statistics import SoftLabels, TargetSummary
from cpsl_deploy.train.warm_up import WarmUp

CPU = Processes(0, 1, torch.device("cpu"))
OPTIMISER = recipe.Optimiser(lr=0.02, head_factor=5)


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.stages, self.steps = [], []

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def step(self, name: str, iteration: int, losses: dict[str, float]) -> None:
        self.steps.append((iteration, losses))

    def message(self, text: str) -> None: ...


class Walk(TrainingStage):
    """The network's head walks against a batch's number; ``upset`` is called with each iteration."""

    def __init__(self, iterations: int, upset=lambda iteration: None, **settings: object) -> None:
        super().__init__(
            "walk", recipe.Stage(iterations=iterations, optimiser=OPTIMISER, **settings), tiny_network()
        )
        self.upset, self.seen = upset, []

    def forward(self, batch, generator):
        self.seen.append((batch.number, float(torch.rand(())), float(torch.rand((), generator=generator))))
        factor = self.upset(len(self.seen) - 1)
        loss = (self.network.classifier.weight.sum() - batch.number).square()
        return {"walk": loss * (1.0 if factor is None else factor)}


class Number:
    """A batch that is a number, of one source image."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.names = {"source": (f"street {number}",)}

    def to(self, device: torch.device) -> "Number":
        return self


def surroundings(
    folder: Path, watcher: Notes | None = None, evaluate=None, **compute: object
) -> Surroundings:
    logged: list[dict] = []
    options = {"evaluate": evaluate} if evaluate else {}
    return Surroundings(
        processes=CPU,
        compute=recipe.Compute(**{"log_every": 1, "checkpoint_every": 1000, **compute}),
        seed=3,
        checkpoint=folder / "checkpoint.pt",
        log_metrics=logged.append,
        watcher=watcher or Notes(),
        **options,
    )


def assert_equal(found: object, wanted: object, where: str = "") -> None:
    """Equal bit for bit, in nested dicts and lists of tensors."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_equal(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    else:
        assert found == wanted, where


# ---- seeds and order


def test_step_seeds_differ_in_everything_that_makes_them():
    cases = [(s, n, i) for s in (0, 1, 2) for n in ("warm_up", "self_labelling") for i in range(50)]
    seeds = [step_seed(*case) for case in cases]
    assert len(set(seeds)) == len(cases)
    assert seeds == [step_seed(*case) for case in cases]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0 <= step_seed(2**62, "distillation_2", 10**9) < 2**63


def test_batches_come_in_order_however_long_they_take():
    def make(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i

    assert list(prefetched(make, 4, 30, workers=3)) == list(range(4, 30))
    assert list(prefetched(make, 4, 4, workers=3)) == []


def test_only_a_few_batches_are_prepared_ahead():
    made = []
    batches = prefetched(lambda i: made.append(i) or i, 0, 1000, workers=2)
    next(batches)
    batches.close()
    assert len(made) <= 5


def test_an_error_of_a_batch_arrives_where_it_is_awaited():
    def make(i: int) -> int:
        if i == 2:
            raise OSError("image 2 is gone")
        return i

    batches = prefetched(make, 0, 9, workers=2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="image 2"):
        next(batches)


# ---- a step


def test_each_step_sees_its_batch_and_its_own_seeded_random_numbers(tmp_path: Path):
    first, again = Walk(5), Walk(5)
    for stage in (first, again):
        train(stage, Number, surroundings(tmp_path))
    assert [number for number, _, _ in first.seen] == [0, 1, 2, 3, 4]
    assert first.seen == again.seen
    assert len({x for _, x, _ in first.seen}) == len({y for _, _, y in first.seen}) == 5


def test_rates_follow_the_schedule_from_their_own_base(tmp_path: Path):
    rates = []

    class Watched(Walk):
        def after_step(self) -> None:
            rates.append([group["lr"] for group in self.optimiser.param_groups])

        def optimisers(self) -> list[torch.optim.Optimizer]:
            (self.optimiser,) = super().optimisers()
            return [self.optimiser]

    train(Watched(4), Number, surroundings(tmp_path))
    factors = [(1 - i / 4) ** 0.9 for i in range(4)]
    assert rates == [pytest.approx([0.02 * f, 0.1 * f]) for f in factors]


def test_parts_of_a_step_add_up_to_their_mean(tmp_path: Path):
    """Two parts with the numbers 2i and 2i + 1 are one step towards the mean of their gradients."""
    in_parts, at_once = Walk(3), Walk(3)
    train(in_parts, Number, surroundings(tmp_path, accumulate=2))
    train(at_once, lambda i: Number(2 * i + 0.5), surroundings(tmp_path))
    assert [number for number, _, _ in in_parts.seen] == list(range(6))
    weights = (in_parts.network.classifier.weight, at_once.network.classifier.weight)
    assert torch.allclose(*weights, atol=1e-6)
    assert not torch.allclose(weights[0], tiny_network().classifier.weight)


def test_a_clipped_gradient_has_the_norm_asked_for(tmp_path: Path):
    settings = recipe.Optimiser(lr=1, head_factor=1, momentum=0, weight_decay=0, clip_norm=0.01)
    stage = Walk(1)
    stage.settings = recipe.Stage(iterations=1, optimiser=settings)
    before = stage.network.classifier.weight.detach().clone()
    train(stage, Number, surroundings(tmp_path))
    step = (stage.network.classifier.weight.detach() - before).norm()
    assert float(step) == pytest.approx(0.01, rel=1e-3)


def test_losses_are_reported_as_means_and_the_stage_is_evaluated_at_its_quarters(tmp_path: Path):
    watcher, seen = Notes(), []

    def evaluate(stage: TrainingStage, iteration: int) -> None:
        stage.eval()
        seen.append(iteration)

    stage = Walk(
        8, upset=lambda iteration: (_ for _ in ()).throw(AssertionError) if not stage.training else None
    )
    train(stage, Number, surroundings(tmp_path, watcher, evaluate, log_every=3))
    assert watcher.stages == [("walk", 0, 8)]
    assert [iteration for iteration, _ in watcher.steps] == [3, 6, 8]
    assert seen == [0, 2, 4, 6]

    every, window = Notes(), Notes()
    train(Walk(3), Number, surroundings(tmp_path, every))
    train(Walk(3), Number, surroundings(tmp_path, window, log_every=3))
    mean = sum(losses["walk"] for _, losses in every.steps) / 3
    assert window.steps[0][1]["walk"] == pytest.approx(mean)


# ---- what goes wrong


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_is_named(tmp_path: Path, factor: float):
    stage = Walk(20, upset=lambda iteration: factor if iteration == 3 else None)
    told = r"walk cannot go on: the term 'walk' is (nan|inf) at iteration 4 .*source images street 3\..*"
    with pytest.raises(TrainingError, match=told + r"walk\.optimiser\.lr"):
        train(stage, Number, surroundings(tmp_path, log_every=5))
    assert len(stage.seen) == 5


def test_a_bad_part_of_a_step_is_named_with_its_own_images(tmp_path: Path):
    stage = Walk(20, upset=lambda part: float("nan") if part == 7 else None)
    with pytest.raises(TrainingError, match=r"at iteration 4 .*Its batch: source images street 7\."):
        train(stage, Number, surroundings(tmp_path, log_every=5, accumulate=2))


def test_a_loss_that_explodes_stops_the_training(tmp_path: Path):
    stage = Walk(20, upset=lambda iteration: 1e6 if iteration == 3 else None)
    with pytest.raises(TrainingError, match=r"at iteration 4 \(a loss stays below 10000\).*street 3\."):
        train(stage, Number, surroundings(tmp_path, log_every=5))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free."
            ),
            r"\(Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free\)",
        ),
        (MemoryError(), ""),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), r"\(.*DefaultCPU.*\)"),
    ],
)
def test_a_step_that_does_not_fit_says_what_to_lower(tmp_path: Path, error: Exception, words: str):
    def upset(iteration: int) -> None:
        if iteration == 4:
            raise error

    around = surroundings(tmp_path, checkpoint_every=3)
    around = dataclasses.replace(around, crop=(64, 96))
    told = (
        rf"^out of memory ?{words} while training walk, iteration 5 \(4 crops of 64x96 per domain, fp32\)\. "
        r"Set compute\.accumulate = 2.*compute\.precision = \"bf16\", a smaller data\.crop or a smaller "
        r"walk\.batch in .*recipe\.toml.*--resume.*intact"
    )
    with pytest.raises(TrainingError, match=told):
        train(Walk(9, upset=upset), Number, around)
    assert read_checkpoint(around.checkpoint)["iteration"] == 3


def test_a_smaller_bank_is_advised_where_no_checkpoint_holds_the_bank(tmp_path: Path):
    """Before the first checkpoint of the stage, but not after it, nor after going on from it."""

    def advice(failing: int) -> str:
        def upset(iteration: int) -> None:
            if iteration == failing:
                raise MemoryError

        stage = Walk(9, upset=upset)
        stage.settings = recipe.SelfLabelling(iterations=9, optimiser=OPTIMISER)
        with pytest.raises(TrainingError, match="out of memory") as raised:
            train(stage, Number, surroundings(tmp_path, checkpoint_every=3))
        return str(raised.value)

    assert "self_labelling.bank" in advice(failing=2)
    for failing in (4, 0):
        told = advice(failing)
        assert "a smaller data.crop or a smaller walk.batch in" in told
        assert "self_labelling.bank" not in told


def test_an_error_that_is_not_of_memory_stays_what_it_is(tmp_path: Path):
    def upset(iteration: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        train(Walk(9, upset=upset), Number, surroundings(tmp_path))


def test_a_batch_that_does_not_fit_is_told_like_a_step(tmp_path: Path):
    def make(i: int) -> Number:
        if i == 2:
            raise MemoryError
        return Number(i)

    with pytest.raises(TrainingError, match="out of memory while training walk, iteration 3"):
        train(Walk(9), make, surroundings(tmp_path))


def test_a_broken_stage_never_replaces_the_last_checkpoint(tmp_path: Path):
    """The loss breaks between two reports; the checkpoint due before the next report must not be written."""
    stage = Walk(40, upset=lambda iteration: float("nan") if iteration == 10 else 1e-3)
    around = surroundings(tmp_path, log_every=10, checkpoint_every=6)
    with pytest.raises(TrainingError, match=r"at iteration 11 .*street 10\..*checkpoint is intact"):
        train(stage, Number, around)
    state = read_checkpoint(around.checkpoint)
    assert state["iteration"] == 6
    assert all(torch.isfinite(value).all() for value in state["module"].values())


def test_weights_that_break_under_sound_losses_are_not_saved_either(tmp_path: Path):
    stage = Walk(40, upset=lambda iteration: 1e-3)
    stage.after_step = lambda: (
        stage.network.classifier.weight.data.fill_(float("inf")) if len(stage.seen) == 12 else None
    )
    around = surroundings(tmp_path, log_every=10, checkpoint_every=6)
    with pytest.raises(TrainingError, match=r"classifier.*not finite after iteration 12 .*street 11\)"):
        train(stage, Number, around)
    state = read_checkpoint(around.checkpoint)
    assert state["iteration"] == 6
    assert all(torch.isfinite(value).all() for value in state["module"].values())


def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path):
    around = surroundings(tmp_path)
    for content in (b"", b"nonsense", b"PK\x03\x04 cut short"):
        around.checkpoint.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"checkpoint\.pt.*Delete it"):
            train(Walk(2), Number, around)
    torch.save({"weights": torch.zeros(2)}, around.checkpoint)
    with pytest.raises(ModelFileError, match="KeyError"):
        read_checkpoint(around.checkpoint)


# ---- interruption


def press_ctrl_c(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_lets_the_step_end_and_leaves_a_checkpoint(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    stage = Walk(9, upset=lambda iteration: press_ctrl_c() if iteration == 4 else None)
    around = surroundings(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="iteration 5"):
        train(stage, Number, around)
    assert len(stage.seen) == 5 and read_checkpoint(around.checkpoint)["iteration"] == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path):
    stage = Walk(9, upset=lambda iteration: press_ctrl_c(2) if iteration == 4 else None)
    around = surroundings(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        train(stage, Number, around)
    assert len(stage.seen) == 5 and not around.checkpoint.exists()


def interrupt_one_of_two(folder: Path) -> None:
    """One of two processes; Ctrl-C reaches the second alone."""
    torch.set_num_threads(1)
    with procs.joined("cpu") as me:
        for iterations, pressed, stopped in ((25, 3, 10), (13, 11, 13)):
            at = (1, pressed)
            stage = Walk(iterations, lambda i, at=at: press_ctrl_c() if (me.rank, i) == at else None)
            stage.settings = dataclasses.replace(stage.settings, optimiser=recipe.Optimiser(lr=1e-4))
            for parameter in stage.network.parameters():  # the only one that a walk moves
                parameter.requires_grad_(parameter is stage.network.classifier.weight)
            around = dataclasses.replace(surroundings(folder / str(iterations)), processes=me)
            with pytest.raises(KeyboardInterrupt, match=f"iteration {stopped}"):
                train(stage, Number, around)
            assert len(stage.seen) == stopped


def test_ctrl_c_in_one_of_two_processes_stops_both_within_ten_steps(tmp_path: Path):
    """Or at the end of the stage, where that is sooner."""
    for iterations in (25, 13):
        (tmp_path / str(iterations)).mkdir()
    in_two_processes(__file__, "interrupt_one_of_two", tmp_path)
    for iterations, stopped in ((25, 10), (13, 13)):
        assert read_checkpoint(tmp_path / f"{iterations}/checkpoint.pt")["iteration"] == stopped


def test_outside_the_main_thread_signals_are_left_alone():
    before, flags = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible() as flag:
            flags.append(flag.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert flags == [False] and signal.getsignal(signal.SIGINT) is before


# ---- resumption


def warm_up(folder: Path) -> TrainingStage:
    settings = recipe.WarmUp(iterations=6, batch=2, optimiser=OPTIMISER)
    return WarmUp(settings, tiny_network(), target_statistics=True)


def self_labelling(folder: Path) -> TrainingStage:
    """With everything on that has a state: momentum, teacher, bank past its end, moving prior, dropout."""
    generator = torch.Generator().manual_seed(0)
    soft_labels = SoftLabels(folder / "soft_labels")
    for index in range(4):
        soft_labels.write(index, torch.rand(3, 8, 12, generator=generator).softmax(dim=0))
    prior = torch.tensor([0.5, 0.3, 0.2])
    summary = TargetSummary(torch.randn(3, 8, generator=generator), prior, prior)
    settings = recipe.SelfLabelling(
        iterations=6,
        batch=2,
        optimiser=recipe.Optimiser(name="adamw", lr=1e-3),
        bank=50,
        pixels_per_image=10,
        momentum=0.9,
        prior_momentum=0.5,
        student_features=True,
        contrast_weight=0.1,
        mixing="classmix",
    )
    return SelfLabelling(settings, tiny_network(dropout=0.5), summary, soft_labels, target_statistics=False)


@pytest.mark.parametrize(
    ("make", "precision"), [(warm_up, "fp32"), (self_labelling, "fp32"), (self_labelling, "fp16")]
)
def test_a_resumed_stage_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path, make, precision: str):
    def trained(folder: Path, stop_after: int | None = None) -> tuple[dict, Notes]:
        stage, watcher = make(tmp_path), Notes()
        optimisers = stage.optimisers()
        stage.optimisers = lambda: optimisers
        if stop_after:
            follow = stage.after_step
            steps = iter(range(1, 99))
            stage.after_step = lambda: (follow(), press_ctrl_c() if next(steps) == stop_after else None)
        state = lambda: {"module": stage.state_dict(), "optimisers": [o.state_dict() for o in optimisers]}  # noqa: E731
        try:
            train(stage, tiny_batch, surroundings(folder, watcher, checkpoint_every=1, precision=precision))
        except KeyboardInterrupt:
            assert stop_after
        last = read_checkpoint(folder / "checkpoint.pt")
        del last["seconds"]
        return state() | {"last checkpoint": last}, watcher

    whole, _ = trained(tmp_path / "whole")
    interrupted, _ = trained(tmp_path / "parts", stop_after=2)
    with pytest.raises(AssertionError):
        assert_equal(interrupted, whole)
    resumed, watcher = trained(tmp_path / "parts")
    assert watcher.stages[0][1] == 2
    assert whole["last checkpoint"]["iteration"] == 5
    assert bool(whole["last checkpoint"]["scaler"]) == (precision == "fp16")
    assert_equal(resumed, whole)


def test_every_step_is_logged_once_wherever_a_run_was_killed(tmp_path: Path):
    """Losses are means of three steps, cut where a checkpoint is; scores are taken at quarters."""

    def log_of(folder: Path, kills: list[int | None]) -> list[tuple]:
        """What is logged by a run that is killed in its n-th step, again and again, and then not."""
        lines: list[tuple] = []

        def rewind(name: str, iteration: int) -> None:
            lines[:] = [x for x in lines if x[0] < iteration + (x[1] == "losses")]

        for kill in kills:

            def die(step: int, kill: int | None = kill) -> None:
                if step == kill:
                    raise SystemExit

            around = dataclasses.replace(
                surroundings(folder, log_every=3, checkpoint_every=4),
                rewind=rewind,
                log_metrics=lambda entry: lines.append((entry["iteration"], "losses", entry["losses"])),
                evaluate=lambda stage, iteration: lines.append((iteration, "scores", {})),
            )
            with contextlib.suppress(SystemExit):
                train(Walk(20, upset=die), Number, around)
        return lines

    whole = log_of(tmp_path / "whole", [None])
    assert [iteration for iteration, kind, _ in whole if kind == "scores"] == [0, 5, 10, 15]
    logged = [iteration for iteration, kind, _ in whole if kind == "losses"]
    assert logged == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
    assert log_of(tmp_path / "killed", [2, 5, 3, 1, 6, None]) == whole


def test_a_checkpoint_of_another_stage_is_left_alone(tmp_path: Path):
    around = surroundings(tmp_path)
    stage = Walk(9, upset=lambda iteration: press_ctrl_c() if iteration == 4 else None)
    with pytest.raises(KeyboardInterrupt):
        train(stage, Number, around)
    watcher = Notes()
    supervised = Supervised("source_only", recipe.SourceOnly(iterations=1, batch=2), tiny_network())
    train(supervised, tiny_batch, surroundings(tmp_path, watcher))
    assert watcher.stages == [("source_only", 0, 1)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stage_learns_in_every_precision(tmp_path: Path, precision: str):
    settings = recipe.SourceOnly(iterations=25, batch=2, optimiser=recipe.Optimiser(lr=0.05, head_factor=1))
    stage, watcher = Supervised("source_only", settings, tiny_network()), Notes()
    train(stage, lambda i: tiny_batch(i % 2), surroundings(tmp_path, watcher, precision=precision))
    losses = [step["source"] for _, step in watcher.steps]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    assert all(p.dtype == torch.float32 for p in stage.parameters())
