"""What a command line does around every command: logs on stderr, one line for a mistake, exit codes.

0 done, 2 bad usage or configuration, 3 no match, 4 failed, 5 no gateway found. Knows no command.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2p.errors import Misconfigured, PasarError
from p2p.loglimit import LogLimit

# typer brings its parser along under a private name; its public errors lead to the family.
ParserError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

DONE, BAD_USAGE, NO_MATCH, FAILED, NO_GATEWAY = 0, 2, 3, 4, 5


class Exit(PasarError):
    """End with this code; the command has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit {code}")
        self.code = code


def configure_logs(*, as_json: bool, level: str) -> None:
    """structlog and the standard library's logging on stderr, coloured for people, as JSON lines for machines."""
    lowest = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        LogLimit(),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S"),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s", force=True)


def run_app(app: typer.Typer, argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code. A mistake is one line on stderr, never a traceback."""
    command = typer.main.get_command(app)
    try:
        code = command(args=list(argv) if argv is not None else None, prog_name="pasar", standalone_mode=False)
    except typer.Exit as exc:
        return exc.exit_code
    except ParserError as exc:
        return _mistake(f"{exc.format_message()} (--help teaches)")  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except PasarError as exc:
        return _known(exc)
    except BaseExceptionGroup as group:
        known = [exc for exc in leaves(group) if isinstance(exc, PasarError)]
        rest = [exc for exc in leaves(group) if not isinstance(exc, PasarError | KeyboardInterrupt)]
        if rest:
            raise
        return _known(known[0]) if known else 130
    return code if isinstance(code, int) else DONE  # without standalone mode an Exit comes back as its code


def read_file(path: Path, most: int) -> bytes:
    """What is in a file that was named on the command line. Raises Misconfigured."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as exc:
        raise Misconfigured(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > most:
        raise Misconfigured(f"{path} is larger than {most} bytes")
    return data


def nobody() -> Exit:
    """Nobody answered: one line, and the exit that says so."""
    print("pasar: nobody found: start a gateway with --role gateway, or name a --bootstrap", file=sys.stderr)
    return Exit(NO_GATEWAY)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as it must be: no cell is cut."""
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    terminal = Console()
    width = max(terminal.width, terminal.measure(table, options=terminal.options.update(max_width=10_000)).maximum)
    Console(width=width).print(table)


def _known(exc: PasarError) -> int:
    if isinstance(exc, Exit):
        return exc.code
    return _mistake(str(exc)) if isinstance(exc, Misconfigured) else _mistake(str(exc), FAILED)


def _mistake(text: str, code: int = BAD_USAGE) -> int:
    print(f"pasar: {' '.join(text.split())}", file=sys.stderr)
    return code


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions of a group of groups."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from leaves(exc)
        else:
            yield exc
