"""Encoders of texts and of images: embeddings of words or patches and of positions, then the layers."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.layers.encoder import has_gaps
from pyattn.layers.sequences import Sequences
from pyattn.models.embeddings import PatchEmbeddings, TokenEmbeddings
from pyattn.models.families import IMAGE_FAMILIES, TEXT_FAMILIES
from pyattn.models.pretrained import Pretrained


class TextEncoder(Pretrained):
    """An encoder of texts, over packed tokens: all sequences one after another, without padding.

    Arguments, attributes and errors are those of `Pretrained`; `pyattn.models.load` makes one from a directory.
    """

    _families = TEXT_FAMILIES
    embeddings: TokenEmbeddings

    def __call__(
        self,
        token_ids: ArrayLike,
        cu_seqlens: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        *,
        attention_mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """The last layer's hidden state of every token, after the norm at the end if the family has one.

        Args:
            token_ids: (total,) integers, the n sequences one after another; or (n, L), padded.
            cu_seqlens: (n + 1,) integers: sequence i is token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]. Its positions
                start at 0, and it attends to itself alone. Of packed token_ids, unless lengths is given.
            token_type_ids: integers in the shape of token_ids; None means 0 for all. What a family without token types
                is given is not used.
            attention_mask: of padded token_ids, (n, L), 0 or False where there is padding, in front of tokens, between
                or after; None where there is none. Tokens keep their places, as in transformers: position 3 is that of
                token_ids[:, 3], but in RoBERTa, XLM-RoBERTa, CamemBERT and MPNet, whose positions count all but the
                padding token, and know it by its id. Padding is dropped before anything is computed; where it stands
                between tokens of a model with windows, rotary or relative positions, it is computed and not attended
                to.
            lengths: (n,) integers, instead of either: of how many tokens each sequence is, padding after them.

        Returns:
            (total, hidden_size) float32; of padded token_ids (n, L, hidden_size), padding being 0.

        Raises:
            TypeError: an argument is not made of integers, or of real numbers in attention_mask.
            ValueError: shapes do not fit together, an id is outside its embedding table, attention_mask has others than
                0 and 1, or a sequence, padding in front counted where positions are learned, is longer than
                config.longest.
        """
        x, _, live = self._forward(
            "TextEncoder", token_ids, cu_seqlens, token_type_ids, attention_mask=attention_mask, lengths=lengths
        )
        return self._unpacked(x, live)

    def _forward(
        self,
        name: str,
        token_ids: ArrayLike,
        cu_seqlens: ArrayLike | None,
        token_type_ids: ArrayLike | None,
        pooling: str = "",
        **padding: ArrayLike | None,
    ) -> tuple[Array, Array, Array | None]:
        """Hidden states of packed tokens, where sequences start, and which of padded tokens are real.

        pooling: of sequences that must have tokens; "cls": by what is at their first places. If padding is at one of
        these, the rows are those of all places.
        """
        config = self.config
        words = _checks.indices(name, "token_ids", token_ids, config.vocab_size)
        types = None
        if token_type_ids is not None:
            types = _checks.indices(name, "token_type_ids", token_type_ids, config.type_vocab_size or 2**31)
            if types.shape != words.shape:
                raise ValueError(f"{name}: token_type_ids has shape {types.shape}; token_ids has {words.shape}")
        live, starts = _checks.packing(name, words.shape, cu_seqlens, **padding)
        if pooling and not (counts := np.diff(starts)).all():
            raise ValueError(f"{name}: sequence {int(counts.argmin())} has no tokens")
        sequences, rows = Sequences.packed(starts, False), live
        if live is not None and self._computes_padding(live, pooling == "cls"):
            batch, length = live.shape  # sequences of all places, of which those that are live are seen
            mask = np.broadcast_to(live[:, None, None, :], (batch, config.num_attention_heads, length, length))
            sequences, rows = Sequences.padded(batch, length, mask, False), np.ones_like(live)
        positions = self._positions(words, rows, sequences)
        last = int(positions.max(initial=-1)) + 1
        if last > config.longest:
            among = " and places of padding" if last > np.diff(starts).max() else ""
            raise ValueError(f"{name}: a sequence has {last} tokens{among}; {config.bound}")
        types = np.zeros(words.shape, np.int64) if types is None else types
        packed = [np.ascontiguousarray(x if rows is None else x[rows]) for x in (words, types)]
        x = self.embeddings.apply(packed[0], positions, packed[1])
        x = self.encoder._forward_rows(x, sequences)
        if rows is not live and live is not None:
            if pooling == "cls":
                starts = np.arange(len(starts)) * live.shape[1]
            else:
                x = x[live.reshape(-1)]
        return x, starts, live

    def states_of_all(self, token_ids: Array, seen: Array) -> Array:
        """Hidden states (n, L, H) of all of token_ids (n, L), which see those alone that seen (n, L), bool, marks."""
        words = _checks.indices("TextEncoder", "token_ids", token_ids, self.config.vocab_size)
        batch, length = words.shape
        mask = np.broadcast_to(seen[:, None, None, :], (batch, self.config.num_attention_heads, length, length))
        sequences = Sequences.padded(batch, length, mask, False)
        rows = np.ones(words.shape, bool)
        positions = self._positions(words, rows, sequences)
        x = self.embeddings.apply(np.ascontiguousarray(words[rows]), positions, np.zeros(words.size, np.int64))
        states: Array = self.encoder._forward_rows(x, sequences).reshape(batch, length, -1)
        return states

    def _computes_padding(self, live: Array, first: bool) -> bool:
        """Whether rows of padding are computed: of one that is wanted, or that tells how far apart tokens stand."""
        if first and not live[:, :1].all():
            return True
        return self.encoder._counts_positions() and has_gaps(live)

    def _positions(self, words: Array, rows: Array | None, sequences: Sequences) -> Array:
        """Of the rows the positions, counted from 0.

        Learned ones are places, be there padding or not. Families whose positions begin after that of padding, such as
        RoBERTa, know it by its id, wherever it stands and whatever the mask: others are counted, padding is at -1.
        """
        if not self.embeddings.learns_positions:
            return sequences.positions()
        if self.config.first_position:
            real = words != self.config.first_position - 1
            counted = np.cumsum(real, axis=-1)
            if rows is None:  # from the start of each sequence
                before = np.concatenate([[0], counted])[sequences.cu_seqlens[:-1]]
                counted -= np.repeat(before, np.diff(sequences.cu_seqlens))
            positions = np.where(real, counted - 1, -1)
        elif rows is None:
            return sequences.positions()
        else:
            positions = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        return positions if rows is None else positions[rows]

    @staticmethod
    def _unpacked(x: Array, live: Array | None) -> Array:
        """Rows of packed tokens where padded ones stand, unless they came packed."""
        if live is None:
            return x
        padded = np.zeros((*live.shape, x.shape[1]), x.dtype)
        padded[live] = x
        return padded


class ImageEncoder(Pretrained):
    """An encoder of images: ViT, DeiT, DINOv2.

    Dosovitskiy et al. 2020 (arXiv:2010.11929); Touvron et al. 2020 (arXiv:2012.12877); Oquab et al. 2023
    (arXiv:2304.07193), with registers Darcet et al. 2023 (arXiv:2309.16588). Arguments, attributes and errors are those
    of `Pretrained`; `pyattn.models.load` makes one from a directory.
    """

    _families = IMAGE_FAMILIES
    embeddings: PatchEmbeddings

    def __call__(self, pixel_values: ArrayLike) -> NDArray[np.float32]:
        """The last layer's hidden state of every token, after the norm at the end.

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
