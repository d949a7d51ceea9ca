"""Mutations, all drawn from one generator so that a seed and a number give the same input on every machine.

Bytes are damaged blindly. What has a structure (JSON and YAML as a tree, protobuf as fields, pickle as instructions) is
also damaged as that structure, so that the damage gets past the parser to what uses the values.
"""

from __future__ import annotations

import copy
import json
import pickletools
import struct
from random import Random
from typing import Any

EDGES = (0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)

# Markers of what json.dumps does not write; `dumps` puts the text in their place.
DIGITS = "@digits@"
EXPONENT = "@1e400@"
_TEXTS = {f'"{DIGITS}"': "9" * 5000, f'"{EXPONENT}"': "1e400"}

VALUES: tuple[Any, ...] = (
    *EDGES,
    -(2**31),
    -48,
    100_000,
    10**8,
    10**12,
    10**30,
    DIGITS,
    EXPONENT,
    0.0,
    -0.0,
    0.5,
    -1.5,
    1e-300,
    1e12,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    True,
    False,
    None,
    "",
    "x",
    "0",
    "1e999",
    ".inf",
    "x" * 5000,
    "../../planted",
    "../secret/key.txt",
    "@SANDBOX@/secret/key.txt",
    "/dev/zero",
    "a/b",
    "..",
    ".",
    "nul\0byte",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "[red]x[/red]",
    "\u202egnp.exe",
    "\ud800",
    "=1+1",
    "<script>alert(1)</script>",
    "a\nb",
    "{}",
    "[]",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"name": {}},
    [0] * 40,
    ["x"] * 40,
    [1, 2, 3],
    [[1, 2], [3]],
    {"x" * 300: 1},
)


def mutate_bytes(rng: Random, content: bytes, times: int | None = None) -> bytes:
    """A few damages: bits, bytes, integers at their edges, pieces cut out, doubled, moved; or the end cut off."""
    data = bytearray(content)
    for _ in range(times or rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            return bytes(data)
        place = rng.randrange(len(data))
        end = min(len(data), place + rng.choice((1, 2, 4, 8, 32, 256)))
        match rng.randrange(9):
            case 0 | 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
            case 3 | 4:
                size, letter = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
                order = rng.choice("<>")
                packed = struct.pack(order + letter, rng.choice(EDGES) % (1 << 8 * size))
                data[place : place + size] = packed[: len(data) - place]
            case 5:
                del data[place:end]
            case 6:
                data[place:place] = data[place:end] * rng.choice((1, 2, 20))
            case 7:
                target = rng.randrange(len(data))
                piece = data[place:end]
                data[target : target + len(piece)] = piece
            case 8:
                del data[place:]
    return bytes(data)


def mutate_tree(rng: Random, tree: Any, times: int | None = None) -> Any:
    """A copy of decoded JSON with a few nodes replaced, taken out, doubled, wrapped or exchanged, or keys renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        places = _places(tree)
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        match rng.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
            case 5:
                del holder[key]
            case 6:
                holder[key] = rng.choice(([holder[key]], {"name": holder[key]}, [holder[key]] * 50))
            case 7:
                other, name = rng.choice(places)
                holder[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else other[name])
            case 8 if isinstance(holder, dict):
                renamed = rng.choice(("x", "", "name", key + "x", "\x1b[2J", "k" * 3000, *(k for _, k in places)))
                holder[renamed if isinstance(renamed, str) else str(renamed)] = holder.pop(key)
            case _:
                value = holder[key]
                if type(value) in (int, float):
                    holder[key] = rng.choice((-value, value * 1000, value + 1, value * 1e12, float(value), str(value)))
                else:
                    holder[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    open_nodes = [tree]
    while open_nodes:
        node = open_nodes.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in pairs:
            found.append((node, key))
            open_nodes.append(value)
    return found


def dumps(tree: Any) -> bytes:
    """JSON of a mutated tree: with NaN, infinities and half surrogate pairs, as Python's own reader takes them."""
    text = json.dumps(tree)
    for marker, replacement in _TEXTS.items():
        text = text.replace(marker, replacement)
    return text.encode()


def json_attacks(rng: Random, content: bytes) -> bytes:
    """JSON damaged as text: bombs of depth and length, keys twice, and what is not JSON."""
    deep = rng.choice((40, 2_000, 100_000))
    match rng.randrange(6):
        case 0:
            return b"[" * deep + b"]" * deep
        case 1:
            return b'{"a":' * deep + b"1" + b"}" * deep
        case 2:
            return content.replace(b"{", b'{"name": 1, "name": "x", ', 1)
        case 3:
            return b"[" + b"{}," * rng.choice((1000, 1_000_000)) + b"{}]"
        case 4:
            return content.replace(b":", b": " + b"[" * 500 + b"]" * 500 + b', "x":', 1)
        case _:
            return rng.choice((b"", b"null", b"0", b"[]", b'""', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf" + content, b"NaN"))


# Protobuf: fields as [number, wire type, value]; a value with a length is bytes, or a list of fields where it parses.

Field = list[Any]


def parse_fields(data: bytes, depth: int = 0) -> list[Field] | None:
    """The fields of a message, None where the bytes are none."""
    fields, position = [], 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            value: Any
            if wire == 0:
                value, position = _varint(data, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
                value, position = data[position : position + size], position + size
            elif wire == 2:
                size, position = _varint(data, position)
                value, position = data[position : position + size], position + size
                if len(value) != size:
                    return None
                inner = parse_fields(value, depth + 1) if depth < 6 and size > 1 else None
                value = inner if inner else value
            else:
                return None
            if number == 0 or position > len(data):
                return None
            fields.append([number, wire, value])
    except IndexError:
        return None
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 70:
            return value, position


def encode_varint(number: int) -> bytes:
    """A varint of 64 bits, negative numbers as their two's complement."""
    number %= 1 << 64
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def encode_fields(fields: list[Field]) -> bytes:
    """The message again."""
    parts = []
    for number, wire, value in fields:
        parts.append(encode_varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(encode_varint(value))
        else:
            content = encode_fields(value) if isinstance(value, list) else value
            parts += [encode_varint(len(content)), content] if wire == 2 else [content]
    return b"".join(parts)


_MESSAGES_AT_MOST = 3_000


def mutate_fields(rng: Random, content: bytes) -> bytes:
    """A protobuf message with a few of its fields, at any depth, damaged as fields."""
    fields = parse_fields(content)
    if fields is None:
        return mutate_bytes(rng, content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holders = _messages(fields)
        if len(holders) > _MESSAGES_AT_MOST:  # copies of copies: more of them would take longer than reading them
            break
        holder = rng.choice(holders)
        if not holder:
            continue
        place = rng.randrange(len(holder))
        number, wire, value = holder[place]
        match rng.randrange(10):
            case 0:
                del holder[place]
            case 1:
                count = rng.choice((1, 2, 200, 20_000))
                holder[place:place] = [copy.deepcopy(holder[place])] * count
                if count == 20_000:  # no copies of so many copies
                    break
            case 2:
                holder[place] = [rng.choice((1, 2, 3, 4, 5, 6, 14, number + 1, 2**28)), wire, value]
            case 3:
                rng.shuffle(holder)
            case 4:
                other = rng.choice(rng.choice(holders) or holder)
                holder[place] = [number, other[1], copy.deepcopy(other[2])]
            case 5:
                holder[place] = [
                    number,
                    2,
                    rng.choice((b"", b"\xff", b"x" * 5000, b"\x1b]0;owned\x07", b"../../planted")),
                ]
            case _ if wire == 0:
                holder[place] = [number, wire, rng.choice(EDGES) if rng.random() < 0.7 else value ^ 1]
            case _ if isinstance(value, bytes):
                holder[place] = [number, wire, mutate_bytes(rng, value, 1) if value else b"x"]
            case _:
                holder[place] = [number, 0, rng.choice(EDGES)]
    return encode_fields(fields)


def _messages(fields: list[Field]) -> list[list[Field]]:
    found, open_ones = [], [fields]
    while open_ones:
        message = open_ones.pop()
        found.append(message)
        open_ones += [value for _, _, value in message if isinstance(value, list)]
    return found


def mutate_pickle(rng: Random, content: bytes) -> bytes:
    """A pickle with a few of its instructions taken out, doubled, exchanged, or given other arguments."""
    starts = [position for _, _, position in pickletools.genops(content) if position is not None]
    pieces = [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(pieces))
        match rng.randrange(6):
            case 0:
                del pieces[place]
            case 1:
                pieces[place:place] = [pieces[rng.randrange(len(pieces))]] * rng.choice((1, 1, 2, 1000, 100_000))
            case 2:
                other = rng.randrange(len(pieces))
                pieces[place], pieces[other] = pieces[other], pieces[place]
            case 3:
                pieces[place] = rng.choice(_INSTRUCTIONS)
            case 4:
                pieces.insert(place, rng.choice(_INSTRUCTIONS))
            case _:
                pieces[place] = pieces[place][:1] + mutate_bytes(rng, pieces[place][1:] or b"\0", 1)
        if not pieces:
            break
    return b"".join(pieces)


_INSTRUCTIONS = (
    b"N",
    b"]",
    b"}",
    b")",
    b"(",
    b"\x85",
    b"\x86",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"0",
    b"1",
    b"2",
    b".",
    b"\x81",
    b"\x94",
    b"h\0",
    b"q\0",
    b"K\xff",
    b"J\xff\xff\xff\xff",
    b"\x8a\xff" + b"\x7f" * 255,
    b"G\x7f\xf0" + bytes(6),
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"\x8c\x1b\x1b]0;owned\x07" + bytes(20),
    b"X\xff\xff\xff\x7f",
    b"B\xff\xff\xff\x7f",
    b"\x95" + b"\xff" * 8,
    b"I9999999999999999999\n",
    b"I" + b"9" * 5000 + b"\n",
    b"F1e999\n",
    b"Vtext\n",
    b"S'a'\n",
    b"L1L\n",
    b"P1\n",
    b"Q",
    b"\x82\1",
)
