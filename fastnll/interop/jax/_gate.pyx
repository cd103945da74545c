# cython: language_level=3, freethreading_compatible=True
"""C functions that keep XLA's threads out of an interpreter that has ended: see ``gate.h``."""

cdef extern from "gate.h":
    void *gate_open(void *handler)
    void gate_close() nogil


def guarded(size_t address):
    """Return the address of a C function that calls the one at `address` until `close`; 0 where all are taken."""
    return <size_t>gate_open(<void *>address)


def close():
    """Let no call through any more, and wait until those that are under way have returned."""
    with nogil:
        gate_close()
