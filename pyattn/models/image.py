"""Encoders of images: patches and their positions, then the layers."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn.models.embeddings import PatchEmbeddings
from pyattn.models.families import IMAGE_FAMILIES
from pyattn.models.pretrained import Pretrained


class ImageEncoder(Pretrained):
    """An encoder of images: ViT, DeiT, DINOv2.

    Dosovitskiy et al. 2020 (arXiv:2010.11929); Touvron et al. 2020 (arXiv:2012.12877); Oquab et al. 2023
    (arXiv:2304.07193), with registers Darcet et al. 2023 (arXiv:2309.16588). Arguments, attributes and errors are those
    of `Pretrained`; `pyattn.models.load` makes one from a directory.
    """

    _families = IMAGE_FAMILIES
    embeddings: PatchEmbeddings

    def __call__(self, pixel_values: ArrayLike) -> NDArray[np.float32]:
        """The last layer's hidden state of every token, behind the norm at the end.

        Args:
            pixel_values: (B, channels, height, width) real numbers, scaled and normalised as the model was trained.
                Sides may differ from config.image_size: positions are then interpolated. What is left over beside
                whole patches is not seen.

        Returns:
            (B, tokens, hidden_size) float32: the class token, others that the model has, then the patches, row by row.

        Raises:
            TypeError: pixel_values is not of a real dtype.
            ValueError: its shape is another, or an image is smaller than a patch.
        """
        config = self.config
        pixels = _checks.array("ImageEncoder", "pixel_values", pixel_values)
        if pixels.dtype.kind != "f":
            raise TypeError(f"ImageEncoder: pixel_values has dtype {pixels.dtype}; real numbers are needed")
        if not self.embeddings.fits(pixels.shape):
            raise ValueError(
                f"ImageEncoder: pixel_values has shape {pixels.shape}; (B, {config.num_channels}, height, width) of at "
                f"least one patch, {config.patch_size}, is needed"
            )
        return self._states_of_all(self.embeddings, pixels.astype(np.float32, copy=False))
