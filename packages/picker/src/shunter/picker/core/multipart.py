"""Fields of a multipart/form-data body (RFC 7578), found without a copy: recordings and images come in such forms.

The parts before the field are skipped by one search for the boundary each; their contents are never looked at.
"""

import re

__all__ = ["find_boundary", "find_field"]

# A form for an engine has a dozen fields.
MAX_PARTS = 100
# RFC 7578 asks for a name and a type of each part; a file's name may be long.
MAX_PART_HEAD_BYTES = 8192
# RFC 2046 section 5.1.1
MAX_BOUNDARY_CHARACTERS = 70

BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
NAME = re.compile(rb'^content-disposition:[^\r\n]*?;\s*name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE | re.MULTILINE)


def find_boundary(content_type: str) -> bytes | None:
    """Return the boundary that a ``content-type`` names; None if it is no form or names none."""
    if not content_type.lower().startswith("multipart/form-data"):
        return None
    found = BOUNDARY.search(content_type)
    boundary = (found[1] or found[2]) if found else ""
    return boundary.encode("latin-1") if 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS else None


def find_field(body: bytes | bytearray, boundary: bytes, name: str) -> tuple[int, int] | None:
    """Return where the value of a field begins and ends; None if the form does not have it, or is not one."""
    wanted, delimiter = name.encode(), b"--" + boundary
    at = body.find(delimiter)
    if at < 0 or (at and not body.startswith(b"\r\n", at - 2)):
        return None
    for _ in range(MAX_PARTS):
        head = at + len(delimiter)
        start = body.find(b"\r\n\r\n", head, head + MAX_PART_HEAD_BYTES)
        end = body.find(b"\r\n" + delimiter, start) if start >= 0 else -1
        if start < 0 or end < 0:
            return None
        found = NAME.search(body[head:start])
        if found and (found[1] if found[1] is not None else found[2]) == wanted:
            return start + 4, max(start + 4, end)
        at = end + 2
    return None
