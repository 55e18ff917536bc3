"""``beph-store embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beph_store_cli.render import JsonOption, console, print_json


def embed(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Tile images, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="NumPy file of (N, D) float32 vectors.")],
    encoder: Annotated[str, typer.Option(help="Name, or folder of an exported bundle.")] = "beph-mini",
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8, or auto: the fastest here \\[fp32].")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Squeeze images of another size.")] = False,
    json: JsonOption = False,
) -> None:
    """Embed tile images without a store; rows come in the order of the images."""
    import numpy as np

    from beph_store.engine.embed import embed as run
    from beph_store.engine.embed import find_images
    from beph_store_cli.progress import bar

    found = find_images(images)
    with bar("embedding images") as progress:
        vectors = run(
            found, encoder=encoder, runtime=runtime, precision=precision, resize=resize, progress=progress
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        np.save(file, vectors)
    if json:
        print_json({"images": [str(p) for p in found], "shape": list(vectors.shape), "output": str(output)})
    else:
        console().print(
            f"{len(found):,} images → {output}: {vectors.shape[0]:,} × {vectors.shape[1]} float32"
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)
