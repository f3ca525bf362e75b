"""Every error the stack raises.

::

    StackError           the stack cannot start or go on; the message names the part, what happened and the remedy
"""

__all__ = ["StackError"]


class StackError(Exception):
    """The stack cannot start or go on."""
