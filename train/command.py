"""``cpsl-adapt``: a labelled synthetic set and unlabelled photos in, a network for those photos out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from cpsl_deploy.command_line import Command
from cpsl_deploy.errors import CpslError, MissingExtraError

if TYPE_CHECKING:
    from .engine.run_folder import RunFolder


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--source", metavar="DATA", help="Labelled: a name, a folder or a YAML file.  [required]")
@click.option("--target", metavar="DATA", help="The same, or a folder of photos, or a video.  [required]")
@click.option("-o", "--output", type=click.Path(), help="Run folder.  [default: runs/SOURCE-TARGET-RECIPE]")
@click.option("--source-root", type=click.Path(), help="Where a named or YAML source's files are.")
@click.option("--target-root", type=click.Path(), help="Where a named or YAML target's files are.")
@click.option("--source-split", default="train", show_default=True)
@click.option("--target-split", default="train", show_default=True, help="Its labels, if any, are not used.")
@click.option("--val-split", help="Labelled target images to score on.  [default: val, if it has labels]")
@click.option("--frames", type=int, metavar="N", help="Of a video: trained on at most.  [default: 500]")
@click.option(
    "--hold-out",
    "hold_out_s",
    type=float,
    metavar="SECONDS",
    help="Of a video: kept out of training, for the report.  [default: a tenth, 2 to 60 s]",
)
@click.option("--classes", help="cityscapes-19, -16, -13, or names: road,car.  [default: the common ones]")
@click.option("--recipe", metavar="NAME|FILE", help="[default: demo for the demo's datasets, else own]")
@click.option("--teacher", metavar="ARCH", help="Network of warm-up and self-labelling.")
@click.option("--student", metavar="ARCH", help="Network to deploy.")
@click.option("--init", metavar="FILE", help="Weights the teacher starts from.")
@click.option("--student-init", metavar="FILE", help="Weights the student starts from.")
@click.option("--seed", type=int)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="fp16: GPUs only.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any value of the recipe. May be repeated."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="Measure some steps of every stage, say what the run will take, begin none.",
)
@click.option("--check/--no-check", default=True, show_default=True, help="Look through the datasets first.")
@click.pass_context
def main(ctx: click.Context, overrides: tuple[str, ...], plan_only: bool, **options: Any) -> None:
    """Adapt a segmenter from a labelled SOURCE to a TARGET without labels.

    Stages: training on the source, warm-up, self-labelling and two distillations, the last into the network
    to deploy. The run folder gets their models, scores, curves and a report. Ctrl-C leaves a checkpoint.

    \b
    Several processes: torchrun --nproc-per-node 2 -m cpsl_deploy.train.command --source ... --target ...

    --plan goes without data for a --recipe of published sets; its last line is one JSON document.

    Exit code 2: something given is wrong, and nothing that was there has changed. 130: interrupted.
    """
    for side in ("source", "target"):
        if options[side] is None and not plan_only:
            raise click.MissingParameter(param_hint=f"'--{side}'", param_type="option", ctx=ctx)
    # Imported here: --help needs no torch.
    try:
        from .engine.progress import shown_progress
        from .entry import adapt
        from .recipe_file import parse_override
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cpsl_deploy"):
            raise
        raise MissingExtraError(error.name, "train", "adapting a model") from error
    settings = dict(parse_override(text) for text in overrides)
    if plan_only:
        show_plan(ctx, settings, **options)
        return
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        with shown_progress() as watcher:
            folder = adapt(settings=settings, watcher=watcher, **options)
    except KeyboardInterrupt:
        if is_first:
            raise
        ctx.exit(130)
    except CpslError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            error.args = (f"process {os.environ['RANK']}: {error}",)
        raise
    if is_first:
        show_results(folder)


def show_plan(ctx: click.Context, settings: dict[str, Any], **options: Any) -> None:
    """What a run with these options would take. Exit code 2 if it cannot go through here."""
    from .engine.loop import SilentWatcher
    from .planning.plan import plan
    from .planning.table import plan_text

    class Messages(SilentWatcher):
        def message(self, text: str) -> None:
            click.echo(text, err=True)

    if options.pop("resume"):
        raise click.UsageError(
            "--plan is of a whole run, and --resume goes on with one. Leave one of them out."
        )
    options.pop("check")
    planned = plan(settings=settings, watcher=Messages(), **options)
    click.echo(plan_text(planned))
    for problem in planned.problems:
        click.secho(f"error: {problem}.", fg="red", err=True)
    click.echo(json.dumps(planned.to_json(), separators=(",", ":")))
    if planned.problems:
        ctx.exit(2)


def show_results(folder: RunFolder) -> None:
    """The scores per class, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    from .adaptation import STAGES
    from .reporting.held_out import CLIP

    results = folder.results()
    before, after = results[STAGES[0]], results[STAGES[-1]]
    if "iou" in before and "iou" in after:
        names = json.loads(folder.domains_file.read_text())["classes"]
        table = Table("class", title="IoU on the target, %")
        for heading in ("source-only", "adapted", "gain"):
            table.add_column(heading, justify="right")
        for name, *values in zip(names, before["iou"], after["iou"], strict=True):
            table.add_row(name, *_row(*values))
        table.add_section()
        table.add_row("mean", *_row(before["mean_iou"], after["mean_iou"]))
        Console().print(table, markup=False)
    click.echo(f"report: {folder.report}")
    if "held_out" in results:
        click.echo(f"clip:   {folder.path / CLIP}")
    click.echo(f"model:  {folder.model}")
    click.echo(f"next:   cpsl-export {folder.path}")


def _row(before: float | None, after: float | None) -> tuple[str, str, str]:
    if before is None or after is None:
        first, second = ("-" if value is None else f"{100 * value:.1f}" for value in (before, after))
        return first, second, ""
    return f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"


if __name__ == "__main__":
    main()
