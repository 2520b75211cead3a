"""``cpsl-demo``: the whole job with nothing but this package."""

from __future__ import annotations

from pathlib import Path

import click

from cpsl_deploy.command_line import Command
from cpsl_deploy.errors import MissingExtraError

HEADLINE = (
    ("source_only", "source-only"),
    ("warm_up", "warm-up"),
    ("self_labelling", "self-labelling"),
    ("distillation_1", "distillation 1"),
    ("distillation_2", "distillation 2 = adapted"),
    ("exported", "exported file"),
)


@click.command(cls=Command)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("cpsl-demo"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the pictures and the training.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of the recipe 'demo'."
)
def main(output: Path, seed: int, device: str, overrides: tuple[str, ...]) -> None:
    """Adapt from rendered to camera streets, export, segment a video and measure: the whole job, in minutes.

    Everything is generated. An interrupted demo goes on where it stopped when given the same command again.
    """
    # Imported here: --help needs no torch.
    try:
        from cpsl_deploy.train.engine.progress import shown_progress
        from cpsl_deploy.train.recipe_file import parse_override

        from .demo import demo
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cpsl_deploy"):
            raise
        extra = "export" if error.name.startswith("onnx") else "train"
        raise MissingExtraError(error.name, extra, "the demo") from error
    with shown_progress() as watcher:
        result = demo(
            output, seed=seed, settings=dict(map(parse_override, overrides)), device=device, watcher=watcher
        )
    click.echo("\nmIoU on the camera's validation images, percent")
    for key, title in HEADLINE:
        click.echo(f"  {title:<26}{100 * result.results[key]['mean_iou']:5.1f}")
    click.echo(f"  {'gain':<26}{result.gain:+5.1f}")
    click.echo(f"\n{result.seconds / 60:.1f} minutes. Look at:")
    for title, path in (
        ("report", result.report),
        ("before and after", result.report.with_name("before_after.png")),
        ("video", result.video),
        ("model", result.model),
        ("benchmark", result.bench),
    ):
        click.echo(f"  {title:<18}{path}")


if __name__ == "__main__":
    main()
