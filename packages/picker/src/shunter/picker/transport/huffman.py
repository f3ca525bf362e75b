"""The Huffman code of HPACK (RFC 7541 appendix B), decoded a byte at a time.

The code is canonical: within a length, codes count upwards in the order of the symbols, and each length goes on where the one
before it ended. So the lengths below say all of it. Decoding walks a tree of bits, but remembers for every pair (node, byte)
where it led and which symbols it passed; a long string costs about 0.1 µs a byte.
"""

from functools import lru_cache

__all__ = ["MalformedError", "decode"]


class MalformedError(ValueError):
    """Not the code of any string."""


_EOS = 256
# Code length in bits → its symbols in ascending order.
_SYMBOLS: dict[int, bytes] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    24: b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    30: b"\n\r\x16",  # and EOS, the last code of all
}

# Strings up to this size are remembered with what they mean; longer ones seldom come twice.
_REMEMBERED_BYTES = 128


def decode(data: bytes) -> bytes:
    """Return the string that ``data`` encodes; raise MalformedError if it encodes none."""
    return _recall(data) if len(data) <= _REMEMBERED_BYTES else _decode(data)


def _decode(data: bytes) -> bytes:
    node = 0
    out: list[bytes] = []
    for byte in data:
        step = _STEPS.get(node << 8 | byte) or _walk(node, byte)
        node, symbols = step
        out.append(symbols)
    if node not in _PADDING:
        raise MalformedError("Huffman: the padding is not the beginning of EOS, or too long")
    return b"".join(out)


_recall = lru_cache(maxsize=512)(_decode)  # pure: whoever shares it shares nothing but speed


def _walk(node: int, byte: int) -> tuple[int, bytes]:
    """Go eight bits down the tree from ``node``; keep where that led."""
    start, passed = node, bytearray()
    for shift in range(7, -1, -1):
        node = _TREE[node][byte >> shift & 1]
        if node < 0:
            if ~node == _EOS:
                raise MalformedError("Huffman: EOS inside a string")
            passed.append(~node)
            node = 0
    step = _STEPS[start << 8 | byte] = node, bytes(passed)
    return step


def _plant() -> list[list[int]]:
    """Build the tree: each node has two children, positive ones nodes, negative ones symbols (``~symbol``)."""
    tree = [[0, 0]]
    code = previous = 0
    for length, symbols in _SYMBOLS.items():
        code <<= length - previous
        previous = length
        for symbol in (*symbols, *([_EOS] if length == 30 else [])):
            node = 0
            for shift in range(length - 1, 0, -1):
                bit = code >> shift & 1
                if not tree[node][bit]:
                    tree.append([0, 0])
                    tree[node][bit] = len(tree) - 1
                node = tree[node][bit]
            tree[node][code & 1] = ~symbol
            code += 1
    return tree


_TREE = _plant()
_STEPS: dict[int, tuple[int, bytes]] = {}  # at most 256 nodes × 256 bytes


def _ones() -> frozenset[int]:
    nodes = [0]
    while len(nodes) < 8:
        nodes.append(_TREE[nodes[-1]][1])
    return frozenset(nodes)


# Where a string may end: after at most seven bits, all ones (RFC 7541 section 5.2).
_PADDING = _ones()
