"""The nodes that ComfyUI brings along and workflows expect, with its ids, inputs and pixels.

Importing this imports nothing heavy: what the nodes compute is in ``pixels.py`` and in
``imagen_nodes/decoding.py``, which ``run`` imports.
"""

from __future__ import annotations

from ..node import Node
from .editing import (
    ImageBlend,
    ImageBlur,
    ImageCompositeMasked,
    ImagePadForOutpaint,
    ImageScale,
    ImageScaleBy,
)
from .files import LoadImage, LoadImageMask, PreviewImage, SaveAnimatedWEBP, SaveImage
from .images import (
    EmptyImage,
    GetImageSize,
    ImageBatch,
    ImageCrop,
    ImageFromBatch,
    ImageInvert,
    RebatchImages,
    RepeatImageBatch,
)
from .masks import (
    FeatherMask,
    GrowMask,
    ImageToMask,
    InvertMask,
    MaskComposite,
    MaskToImage,
    SolidMask,
)
from .primitives import (
    PreviewAny,
    PrimitiveBoolean,
    PrimitiveFloat,
    PrimitiveInt,
    PrimitiveString,
    PrimitiveStringMultiline,
)
from .upscale import ImageUpscaleWithModel, UpscaleModelLoader

BUILTIN: tuple[type[Node], ...] = (
    LoadImage,
    LoadImageMask,
    SaveImage,
    SaveAnimatedWEBP,
    PreviewImage,
    EmptyImage,
    ImageScale,
    ImageScaleBy,
    ImageUpscaleWithModel,
    UpscaleModelLoader,
    ImageInvert,
    ImageBatch,
    RepeatImageBatch,
    ImageFromBatch,
    RebatchImages,
    ImageCompositeMasked,
    ImagePadForOutpaint,
    ImageCrop,
    MaskToImage,
    ImageToMask,
    InvertMask,
    GrowMask,
    FeatherMask,
    SolidMask,
    MaskComposite,
    GetImageSize,
    ImageBlend,
    ImageBlur,
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveBoolean,
    PreviewAny,
)
