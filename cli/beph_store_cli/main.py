"""The app, and the one place where errors become a line and an exit code.

Exit 0 all done, 1 something failed, 2 usage, 130 stopped.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from beph_store.errors import BephStoreError, MissingExtra, UsageError
from beph_store.objects import explain, is_storage_error
from beph_store_cli import panels
from beph_store_cli.commands import (
    annotate,
    audit,
    bench,
    demo,
    embed,
    encoder,
    exporting,
    finetune,
    heatmap,
    importing,
    ingest,
    leaderboard,
    maintain,
    map,
    pretrain,
    probe,
    protocol,
    query,
    reproduce,
    search,
    serve,
    train,
)
from beph_store_cli.synonyms import hint

_STOPPED = "stopped; run the same command again to go on"
#: What Typer raises for a command line it cannot parse; old versions take it from click, newer ones carry it.
_UnusableLine: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="beph-store",
    cls=panels.Arranged,
    help="Embed whole-slide images into a columnar store, and work on the embeddings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from beph_store import __version__

        typer.echo(f"beph-store {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Embed whole-slide images into a columnar store, and work on the embeddings."""


audit.register(app)
demo.register(app)
ingest.register(app)
maintain.register(app)
query.register(app)
embed.register(app)
importing.register(app)
exporting.register(app)
train.register(app)
reproduce.register(app)
heatmap.register(app)
search.register(app)
map.register(app)
annotate.register(app)
probe.register(app)
finetune.register(app)
pretrain.register(app)
serve.register(app)
bench.register(app)
leaderboard.register(encoder.app)
app.add_typer(encoder.app, name="encoder")
app.add_typer(protocol.app, name="protocol")
panels.arrange(app)


def main() -> None:
    """Run the command line of this process."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    signal.signal(signal.SIGTERM, _stop)
    try:
        # Typer frames usage errors for people and ends the process; with --json they are ours to print.
        code = app(arguments, standalone_mode="--json" not in arguments)
        sys.exit(code or 0)
    except _UnusableLine as error:
        message = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
        other = hint(arguments)
        _fail(f"{message}; {other}" if other else message, 2, arguments)
    except KeyboardInterrupt:
        _fail(_STOPPED, 130, arguments)
    except SystemExit as end:
        if end.code == 130:  # Typer turned a KeyboardInterrupt into this
            _fail(_STOPPED, 130, arguments)
        if end.code == 2 and (other := hint(arguments)):
            sys.stderr.write(f"error: {other}\n")
        raise
    except BephStoreError as error:
        if debug:
            raise
        usage = isinstance(error, UsageError) and not isinstance(error, MissingExtra)
        _fail(_described(error), 2 if usage else 1, arguments)
    except (OSError, ValueError, RuntimeError) as error:
        # Lance wraps what a bucket says in any of these.
        if debug or not (isinstance(error, OSError) or is_storage_error(error)):
            raise
        _fail(_of_system(error), 1, arguments)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _of_system(error: Exception) -> str:
    if is_storage_error(error) or not isinstance(error, OSError):
        return explain(error, "")
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _described(error: BephStoreError) -> str:
    text = " ".join(str(error).split())
    return f"{error.slide_id}: {text}" if error.slide_id and error.slide_id not in text else text


def _fail(message: str, code: int, arguments: list[str]) -> NoReturn:
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"ok": False, "error": message}) + "\n")
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)
