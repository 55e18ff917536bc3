"""How an imported slide is told from an ingested one, by those who would open its file or draw its places."""

from __future__ import annotations

from beph_store.errors import UsageError
from beph_store.records import Rasters, Recipe

#: Before the path of a registry row whose slide was not at hand: what follows is the file of features.
FEATURES_ONLY = "features:"
#: Method of the tissue mask of a slide whose pixels were never seen.
WITHOUT_SLIDE = "where the imported tiles lie; the slide itself was not at hand"
#: How the tissue method of a recipe ends whose vectors have no places.
WITHOUT_PLACES = ", without places"
#: How the variant, and the source, of an encoder begins that was never here.
IMPORTED_FROM = "imported from "


def blank(rasters: Rasters) -> bool:
    """Whether the stored picture of a slide is a blank one."""
    return rasters.tissue.method == WITHOUT_SLIDE


def of_table(recipe: Recipe) -> bool:
    """Whether its vectors are one a slide, from a table: no tile was cut."""
    return recipe.encoder.variant == "imported"


def has_places(recipe: Recipe) -> bool:
    """Whether tiles of the recipe lie anywhere."""
    return not of_table(recipe) and not recipe.tile.tissue_method.endswith(WITHOUT_PLACES)


def need_places(recipe: Recipe) -> None:
    """Raise UsageError where tiles of the recipe lie nowhere."""
    if of_table(recipe):
        raise UsageError(f"recipe {recipe.key} has one vector a slide, from a table: it has no tiles to show")
    if not has_places(recipe):
        raise UsageError(
            f"recipe {recipe.key} was imported without the places of its tiles: import it into a new store with "
            "--coords, the folder of the coordinates"
        )
