"""The HTTP API over a store, for the page and for curl. Reads only; see docs/serve.md.

``app`` makes the application from the table of ``routes``, ``guard`` stands in front of it, ``shelf`` holds what is
known of the store, ``slide_tiles`` cuts slides into images; a file that ends in ``_api`` answers requests. Nothing that
a client sends is ever used as a path: recipes, slides and runs are looked up among those that the store has.
"""
