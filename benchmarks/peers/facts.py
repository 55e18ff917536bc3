"""What is known of each system besides its rate, and where from."""

from __future__ import annotations

_DESCRIBED = (
    "as the project describes itself; the pattern measured is written anew from that, with no code of theirs"
)

#: ``resumes``: what a second run into the same place does. ``why``: where its time goes.
FACTS: dict[str, dict[str, str]] = {
    "ours": {
        "licence": "Apache-2.0",
        "stores": "one table for all slides; float16 vectors, places, tissue, read status",
        "resumes": "within a slide, and only with the same recipe",
        "why": "each JPEG tile decoded once; readers and encoder work together; one stream of batches over all slides",
        "from": "this repository",
    },
    "ours, precision auto": {
        "licence": "Apache-2.0",
        "why": "the same, encoded in the fastest precision that passes the parity gate",
        "from": "this repository",
    },
    "CLAM's pattern": {
        "licence": "GPL-3.0",
        "stores": "h5 and .pt a slide, float32: every vector twice",
        "resumes": "slide by slide, by the existence of the .pt",
        "why": "one read a tile, the h5 of coordinates opened for each; float32 on the CPU a tile at a time",
        "from": _DESCRIBED,
    },
    "TRIDENT's pattern": {
        "licence": "CC-BY-NC-ND-4.0",
        "stores": "h5 a slide, float32 here",
        "resumes": "slide by slide, by the existence of the h5",
        "why": "one read a tile; float32 on the CPU a tile at a time; workers started anew for each slide",
        "from": _DESCRIBED,
    },
    "slide2vec's pattern": {
        "licence": "Apache-2.0",
        "stores": ".pt and a JSON a slide, float32 here",
        "resumes": "slide by slide, by its process list",
        "why": "squares of tiles read at once, uint8 to the device; workers started anew for each slide",
        "from": _DESCRIBED,
    },
    "slide2vec's pattern, cuCIM": {
        "licence": "Apache-2.0",
        "why": "the same with the reader that the project prefers",
        "from": _DESCRIBED,
    },
    "lazyslide": {
        "stores": "a zarr store a slide: an AnnData table and a polygon a tile, float32",
        "resumes": "no: feature_extraction computes all of a slide anew, and write() rewrites its store",
        "why": "one read a tile; float32 on the CPU a tile at a time; workers anew and a store written for each slide",
        "from": "its docstrings and source as installed",
    },
    "tiatoolbox": {
        "stores": "a zarr group a slide, float32, with coordinates at the resolution asked for",
        "resumes": "no: an existing folder is refused, or emptied with overwrite=True",
        "why": "one read a tile through its own reader; workers anew for each slide; a dask graph written at its end",
        "licence": "BSD-3-Clause",
        "deviates": "installed against its metadata, which wants torch < 2.13; slides linked as .svs, because a plain "
        "pyramidal .tif is decoded whole in every worker",
        "from": "its docstrings and source as installed",
    },
    "wsinfer": {
        "stores": "a CSV a slide: the softmax of the vectors, as text",
        "deviates": "installed with zarr < 3, since it does not import with zarr 3; compared by the logarithm",
        "resumes": "slide by slide, by the existence of the CSV",
        "why": "one read a tile; float32 on the CPU a tile at a time; workers started anew for each slide; CSV",
        "from": "its docstrings and source as installed",
    },
}
