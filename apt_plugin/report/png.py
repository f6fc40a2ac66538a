"""Pictures without an imaging library: PNG is a header, zlib-compressed rows and an end."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from apt_plugin.errors import AptError


def encode(frame: np.ndarray) -> str:
    """[H, W, 3] uint8 -> PNG, base64."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise AptError(f"A frame is {frame.dtype} {frame.shape}; write RGB, uint8 [height, width, 3].")
    height, width, _ = frame.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), frame.reshape(height, -1)], axis=1)  # 0: no filter

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")).decode()
