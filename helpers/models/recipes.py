"""RECIPE numbers: by whose arithmetic a run was made, as far as nothing else that is noted of it can tell."""

from __future__ import annotations

RECIPES = {
    "patchcore": 1,
    "unet": 1,
    "deeplabv3plus": 1,
    "draem": 1,
    "glass": 1,
    "classifier": 2,  # 2: the score is a sum in float32, the one that Predictor and exports compare
    "foreground": 1,
    "export": 2,  # no model: exported files, when the same run gives another one; all are then written again
}
"""Model -> its number. Raise it by hand when a training with the same parameters comes out different: network, loss,
sampling, augmentation, how a photo becomes what the network sees, how scores and thresholds are made. All runs of that
model are then trained again. What any other edit of the source changes, comments first, costs nobody a training."""


def recipe_of(run: str) -> int:
    """The number for a run by its name: that of its model, which the name begins with (``patchcore_stock_0``)."""
    return RECIPES.get(run.split("_")[0], 1)
