"""A session's memory: slots of plain tensors, and their form as named arrays of bytes.

The only place that knows which tensors a session's state is made of. Layers get them as named
tuples (`lalte.state.tensors`); everyone else copies, compares, saves and loads whole slots.
"""

from lalte.state.arrays import Array, growing_nbytes, nbytes
from lalte.state.errors import StateError
from lalte.state.slots import RetainedTokens, StateSlots, StateView, copy_slot

__all__ = [
    "Array",
    "RetainedTokens",
    "StateError",
    "StateSlots",
    "StateView",
    "copy_slot",
    "growing_nbytes",
    "nbytes",
]
