"""Ids for requests that come without one."""

from shunter.picker.core.kinds import Dice

__all__ = ["new_request_id"]


def new_request_id(dice: Dice) -> str:
    """Return a UUID of version 4 (RFC 9562 section 5.4) out of these dice."""
    bits = dice.getrandbits(128) & ~(0xF << 76) & ~(0x3 << 62) | 0x4 << 76 | 0x2 << 62
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
