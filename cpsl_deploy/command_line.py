"""What the commands share: how errors end a command, how sizes are written."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import click

from .errors import CpslError, InputError


class Terminated(KeyboardInterrupt):
    """A signal that does what Ctrl-C does."""

    number = signal.SIGTERM


class HungUp(Terminated):
    """The terminal is gone."""

    number = signal.SIGHUP


class Command(click.Command):
    """A click command in which the project's own errors end with one line and their exit code.

    So do the operating system's, such as a folder that may not be read, with exit code 2. Ctrl-C ends with
    exit code 130, other signals that a command catches with 128 and their number, and with the line that the
    interrupted work left in ``KeyboardInterrupt.args``. ``CPSL_DEBUG=1`` shows tracebacks.
    """

    log_format = "%(levelname)s: %(message)s"
    """Of what the library logs, from warnings on."""

    def invoke(self, ctx: click.Context) -> Any:
        logging.basicConfig(level=logging.WARNING, format=self.log_format)
        try:
            return super().invoke(ctx)
        except CpslError as error:
            if os.environ.get("CPSL_DEBUG") == "1":
                raise
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            # Click ends quietly when the reader of a pipe is gone.
            if os.environ.get("CPSL_DEBUG") == "1" or error.errno == errno.EPIPE:
                raise
            click.secho(f"error: {_in_words(error)}", fg="red", err=True)
            ctx.exit(CpslError.exit_code)
        except KeyboardInterrupt as interrupt:
            number = interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT
            by = f" by {number.name}" if number != signal.SIGINT else ""
            click.echo(f"interrupted{by}. {' '.join(str(a) for a in interrupt.args)}".rstrip(), err=True)
            ctx.exit(128 + number)


class CommandWithOthers(Command):
    """A command that has others beside its own work: ``NAME OTHER ...`` is one of them, ``NAME ...`` itself.

    An argument of its own that is called like one of the others is given with its folder: ``./OTHER``.
    """

    def __init__(self, *arguments: Any, others: dict[str, Callable[[], click.Command]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.others = others
        """Word to what gives the command: it is imported when it is asked for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.others:
            other = self.others[args[0]]()
            return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


def _in_words(error: OSError) -> str:
    where = f" {os.fspath(error.filename)}" if isinstance(error.filename, str | os.PathLike) else ""
    return (
        f"cannot read or write{where}: {error.strerror or error}. Check that the file is there, its "
        "permissions and the free space of the disk."
    )


def parse_size(text: str) -> tuple[int, int]:
    """``HxW`` as (height, width) in pixels. Raises InputError for anything else."""
    sides = re.fullmatch("([0-9]{1,6})x([0-9]{1,6})", text.lower())
    if sides is None or min(int(sides[1]), int(sides[2])) < 16:
        raise InputError(
            "a size is written HEIGHTxWIDTH in pixels, each 16 or more, for example 512x1024; got "
            f"{text[:80]!r}"
        )
    return int(sides[1]), int(sides[2])
