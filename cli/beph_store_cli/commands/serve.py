"""``beph-store serve``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import MissingExtra, UsageError
from beph_store_cli.render import JsonOption, StoreArgument, console, print_json

if TYPE_CHECKING:
    from beph_store.serve.server import Address


def serve(
    store: StoreArgument,
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine the token travels unencrypted.")
    ] = "127.0.0.1",
    labels: Annotated[Path | None, typer.Option(help="Table with slide_id or case_id, for filters.")] = None,
    allow_write: Annotated[
        bool,
        typer.Option("--allow-write", help="Let requests label, train and ingest; otherwise it only reads."),
    ] = False,
    ingest_root: Annotated[
        list[Path] | None,
        typer.Option(help="Slides under this folder may be ingested by request; may be given again."),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that `train` wrote, or of such folders, to show; may be given again."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Serve a store over HTTP: open the URL that it prints, stop it with Ctrl-C."""
    if any(find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise MissingExtra("serve needs Starlette and uvicorn: pip install 'beph-store[serve]'")
    from beph_store.serve.desk import Folders
    from beph_store.serve.server import serve as run

    folders = Folders(_folders(ingest_root, "--ingest-root"), _folders(heads, "--heads"))
    if folders.ingest and not allow_write:
        raise UsageError("--ingest-root is for ingesting by request: give --allow-write as well")

    def ready(address: Address) -> None:
        if json:
            print_json(
                {"url": address.url, "base": address.base, "token": address.token, "port": address.port}
            )
            return
        console().print(address.url, soft_wrap=True)
        if not address.is_private:
            console(stderr=True).print(
                "others can reach this address, and the token travels unencrypted: prefer an SSH tunnel to 127.0.0.1"
            )

    try:
        run(
            store,
            host=host,
            port=port,
            labels=labels,
            allow_write=allow_write,
            folders=folders,
            ready=ready,
        )
    except KeyboardInterrupt:
        return  # the way a server ends


def _folders(given: list[Path] | None, flag: str) -> tuple[Path, ...]:
    """Where they really are, so that a link that is bent later leads nowhere else."""
    for path in given or []:
        if not path.is_dir():
            raise UsageError(f"{flag} {path}: no such folder")
    return tuple(path.resolve() for path in given or [])


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
