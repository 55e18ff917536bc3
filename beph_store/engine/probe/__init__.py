"""How well vectors tell the classes of tiles: from a store or a set of images to figures and a page."""
