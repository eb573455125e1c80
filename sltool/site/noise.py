"""Gaussian noise that nobody can reproduce: from a key that is used once and never stored."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Draws computed at a time: few enough for all steps to stay in the processor's cache.
BLOCK = 2**16
# Radius words below this, one in 2**24, are drawn again with 128 bits more.
TAIL = 2**8


def fresh_noise(maps: torch.Tensor) -> torch.Tensor:
    """Standard normal noise of the shape and on the device of `maps`, float32."""
    import torch

    return torch.from_numpy(fresh_draws(tuple(maps.shape))).to(maps.device)


def fresh_draws(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise of this shape.

    Each call takes a 256-bit key from the operating system. The noise of two encodings is therefore
    independent, and cannot be found by a search over seeds.
    """
    return standard_normal(secrets.token_bytes(32), math.prod(shape)).reshape(shape)


def standard_normal(key: bytes, count: int) -> NDArray[np.float32]:
    """(count,) float32 draws from the key stream of ChaCha20 (RFC 8439) by Box and Muller (1958).

    The resolution of the uniform numbers, 160 bits in the tail, bounds them: |draw| < 15. With 32
    bits alone the bound of 6.8 would betray a shift of several standard deviations, as epsilons
    above 10 allow.

    Args:
        key: 32 bytes, used for this call only: the nonce is always 0.
    """
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    draws = np.empty(count + count % 2, np.float32)
    for start in range(0, len(draws), BLOCK):
        block = draws[start : start + BLOCK]
        words = np.frombuffer(stream.update(bytes(block.nbytes)), "<u4")
        block[:] = _box_muller(words, stream)
    return draws[:count]


def _box_muller(words: NDArray[np.uint32], stream: CipherContext) -> NDArray[np.float32]:
    """(2 n,) uniform words -> (2 n,) standard normal numbers; `stream` gives the tail's bits."""
    radius, angle = np.split(words.astype(np.float32), 2)
    # Shifted by half a step: the logarithm of 0 is not finite.
    radius *= 2.0**-32
    radius += 2.0**-33
    np.log(radius, out=radius)
    for index in np.flatnonzero(words[: len(radius)] < TAIL):
        fraction = (int.from_bytes(stream.update(bytes(16))) + 0.5) * 2.0**-128
        radius[index] = math.log((int(words[index]) + fraction) * 2.0**-32)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle *= 2 * np.pi * 2.0**-32
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
