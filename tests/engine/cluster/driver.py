"""The command line with spans of few tiles, so that small slides have many of them, and with little patience."""

import os

from beph_store.engine.cluster import crew, spans
from beph_store_cli.main import main

if __name__ == "__main__":
    spans.MOST_TILES, spans.FEWEST_TILES = 16, 4
    crew.LOOK_SECONDS = 1.0
    crew.PLACE_SECONDS = float(os.environ.get("PATIENCE", crew.PLACE_SECONDS))
    main()
