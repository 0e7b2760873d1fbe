"""The card of a training's snapshot."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

from ..checkpoint import Card, Measurement, Training
from ..images import grid, to_picture
from .run import Plan

THUMBNAIL_SAMPLES = 16
THUMBNAIL_SIDE = 128


def card(
    plan: Plan,
    nimg: int,
    losses: dict[str, float],
    images: Tensor,
    quality: tuple[Measurement, ...] = (),
    selection: str = "",
) -> Card:
    """Of the network that drew ``images`` (IMAGE) after ``nimg`` images, at those ``losses``; what
    was measured, and why it was chosen."""
    recipe = plan.recipe
    architecture = recipe.task.architectures[recipe.task.shipped].model_dump(mode="json")
    return Card(
        title=recipe.name,
        description=f"A {recipe.task.summary}, "
        f"trained on {plan.images} images of {plan.data_name} for {nimg / 1000:.1f} kimg.",
        architecture=architecture,
        task=recipe.task.purpose,
        value_range=recipe.task.value_range,
        class_names=plan.class_names,
        training=Training(
            recipe=recipe.model_dump(mode="json"),
            data=plan.data_name,
            images=plan.images,
            nimg=nimg,
            losses=losses,
            selection=selection,
        ),
        quality=quality,
        thumbnail=thumbnail(to_picture(grid(images[:THUMBNAIL_SAMPLES])[0])),
    )


def thumbnail(picture: Image.Image) -> str:
    """A data URL of ``picture``, at most 128 px on a side; JPEG, without alpha."""
    picture = picture.convert("RGB")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
