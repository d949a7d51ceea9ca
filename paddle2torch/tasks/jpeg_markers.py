"""The markers of a JPEG: whether it is whole, how many scans it has, and what they make a decoder keep."""

from __future__ import annotations

import re
from dataclasses import dataclass

END = 0xD9

# A marker of JPEG is 0xFF and a code; in compressed data 0xFF is followed by 0 or by a restart code (0xD0 to 0xD7).
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_BARE = (0x01, 0xD8)  # markers without a length, besides the restart codes
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


@dataclass
class JpegMarkers:
    """What the markers of a JPEG say. whole: the end marker is there; the one of an embedded thumbnail does not count.

    coefficients: bytes per pixel that a decoder keeps through all scans; none where one scan has all of it.
    """

    whole: bool = False
    scans: int = 0
    coefficients: float = 0.0


def read_markers(data: bytes) -> JpegMarkers:
    """The markers of the JPEG file `data`, up to its end marker."""
    found = JpegMarkers()
    position, components, progressive = 2, 0, False
    kept = 0.0
    while match := _MARKER.search(data, position):
        position = match.end()
        marker = data[position - 1]
        if marker == END:
            found.whole = True
            break
        if marker in _BARE:
            continue
        segment = data[position : position + max(2, int.from_bytes(data[position : position + 2], "big"))]
        position += max(2, len(segment))
        if marker in _FRAMES and len(segment) > 7:
            components, progressive = segment[7], marker in _PROGRESSIVE
            factors = [(byte >> 4) * (byte & 15) for byte in segment[9 : 8 + 3 * components : 3]]
            kept = 2 * sum(factors) / max(1, *factors) if factors else 0.0
        elif marker == _SCAN and len(segment) > 2:
            found.scans += 1
            if progressive or segment[2] < components:
                found.coefficients = kept
    return found
