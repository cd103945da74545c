"""How much memory a linear head takes, and into how many chunks of rows that cuts the work."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from fastnll.errors import OptionError
from fastnll.kernels.blocked import BLOCK

__all__ = [
    "GRAD_MEMORY",
    "VALUE_MEMORY",
    "MemoryItem",
    "MemoryPlan",
    "Sizes",
    "blocked_products",
    "check_max_memory",
    "plan_memory",
    "row_scratch",
]

# Bytes of workspace where the caller names none. A chunk of rows should be some hundred high: each streams the weights
# past it. For the value alone, fewer do, for there is one product instead of three.
GRAD_MEMORY = 120 << 20
VALUE_MEMORY = 30 << 20
# Most rows at a time: enough that a product seldom waits for the weights, which each chunk reads from memory again.
# More gain nothing, and fresh memory for their logits costs more than the loss.
MOST_ROWS = 256
# Chunks are cut to multiples of this many rows.
ROWS = 16
# And of those among them that turn out to need their logits after all.
CAREFUL_ROWS = 4


@dataclass(frozen=True)
class MemoryItem:
    """One allocation.

    Attributes
    ----------
    name : str
    bytes : int
    why : str
    """

    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class MemoryPlan:
    """What a call of the linear head allocates, and in how many chunks of rows it works.

    Attributes
    ----------
    rows : int
        Rows of one chunk; does not depend on the number of threads.
    chunks : int
    threads : int
    bound : int
        The bytes that `workspace` was fitted into.
    workspace_items, output_items : tuple of MemoryItem

    Examples
    --------
    >>> items = (MemoryItem("logits", 2000, "of a chunk"),)
    >>> print(MemoryPlan(2, 5, 1, 3000, items, ()))
    5 chunks of 2 rows on 1 threads
    workspace: 0.0 MB
           0.002 MB  logits: of a chunk
    returned: 0.0 MB
    """

    rows: int
    chunks: int
    threads: int
    bound: int
    workspace_items: tuple[MemoryItem, ...]
    output_items: tuple[MemoryItem, ...]

    @property
    def workspace(self) -> int:
        """Bytes that are freed when the call returns."""
        return sum(item.bytes for item in self.workspace_items)

    @property
    def outputs(self) -> int:
        """Bytes of the arrays that the call returns and makes itself."""
        return sum(item.bytes for item in self.output_items)

    @property
    def careful_rows(self) -> int:
        """Rows whose logits are held at a time where none are held otherwise; rows with infinities."""
        return min(CAREFUL_ROWS, self.rows)

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a workspace item; 0 where there is none of that name."""
        return sum(item.bytes for item in self.workspace_items if item.name == name)

    def __str__(self) -> str:
        lines = [f"{self.chunks} chunk{'s' * (self.chunks != 1)} of {self.rows} rows on {self.threads} threads"]
        for title, items, total in (
            ("workspace", self.workspace_items, self.workspace),
            ("returned", self.output_items, self.outputs),
        ):
            lines.append(f"{title}: {total / 1e6:.1f} MB")
            lines += [f"  {item.bytes / 1e6:10.3f} MB  {item.name}: {item.why}" for item in items]
        return "\n".join(lines)


@dataclass(frozen=True)
class Sizes:
    """What the plan depends on.

    Attributes
    ----------
    n, live, v, d : int
        Rows, those that count, classes that take part, features.
    compute : int
        Bytes of an element of the logits.
    backend : str
    products : callable
        From the rows of a chunk to the bytes that the products take: together, and for each thread.
    grads : tuple of str
        The gradients that are asked for, among "hidden", "weight" and "bias".
    held : bool
        Whether the logits of a chunk are held; else its rows are reduced to states on the way.
    extra : tuple of MemoryItem
        Workspace that does not depend on the chunks.
    outputs : tuple of MemoryItem
    """

    n: int
    live: int
    v: int
    d: int
    compute: int
    backend: str
    products: Callable[[int], tuple[int, int]]
    grads: tuple[str, ...] = ()
    held: bool = True
    extra: tuple[MemoryItem, ...] = ()
    outputs: tuple[MemoryItem, ...] = ()


def check_max_memory(value: object) -> int | None:
    """Return the bound in bytes, or None for the default.

    Raises
    ------
    OptionError
        If it is no positive integer.
    """
    if value is None:
        return None
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"max_memory: expected an integer number of bytes, got {value!r}") from None
    if isinstance(value, bool) or count < 1:
        raise OptionError(f"max_memory: expected a number of bytes of at least 1, got {value!r}")
    return count


def _items(s: Sizes, rows: int, threads: int) -> list[MemoryItem]:
    """Return what chunks of that many rows take on that many threads."""
    chunk = "logits of a chunk" + (", overwritten by their gradient" if s.grads else "")
    shared, each = s.products(rows)
    items = [
        MemoryItem("logits", rows * s.v * s.compute, chunk),
        MemoryItem(
            "hidden", shared, "rows of a chunk in the order of the products, and partial sums of their gradient"
        ),
        MemoryItem("tiles", threads * each, "weights and logits that a product works on, per thread"),
    ]
    if s.backend == "reference":
        items.append(MemoryItem("copies", 8 * rows * s.v * 8, "the reference computes in whole float64 arrays"))
    else:
        items.append(MemoryItem("row scratch", threads * row_scratch(s.v), "exponentials of rows at work, per thread"))
    return [item for item in items if item.bytes]


def row_scratch(v: int) -> int:
    """Return the bytes that the loss' kernel takes for each thread (``fnll_scratch`` in ``native/dispatch.c``).

    Examples
    --------
    >>> row_scratch(1000), row_scratch(4096)
    (0, 229376)
    """
    if v <= 2048:
        return 0
    return 24 * v + max(8 * v if v <= 1 << 17 else 0, 1 << 17)


def plan_memory(s: Sizes, max_memory: int | None, threads: int) -> MemoryPlan:
    """Return the plan for checked sizes.

    Raises
    ------
    OptionError
        If no chunk fits `max_memory`; says the least that would do.
    """
    bound = max_memory or (GRAD_MEMORY if s.grads else VALUE_MEMORY)
    always = [MemoryItem("rows", 64 * s.n, "loss, weight and position of every row"), *s.extra]
    fixed = sum(item.bytes for item in always)

    def total(rows: int, threads: int) -> int:
        return fixed + sum(item.bytes for item in _items(s, rows, threads))

    # Chunks are cut for two threads, however many there are: their height decides in which order sums are added.
    most = max(min(ROWS, s.live), 1)
    rows = max(min(s.live, MOST_ROWS), most)
    while rows > most and total(rows, 2) > bound:
        rows = max((rows - 1) // ROWS * ROWS, most)
    if max_memory is not None:
        least = total(most, 1)
        if bound < least:
            raise OptionError(
                f"max_memory: expected at least {least} bytes for {s.live} rows of {s.v} classes and {s.d} features "
                f"({most} at a time on one thread), got {bound}"
            )
        while threads > 1 and total(rows, threads) > bound:
            threads -= 1
    chunks = max(-(-s.live // rows), 1)
    if chunks > 1:  # of one height, rather than a low one at the end
        rows = min(rows, -(-s.live // chunks // ROWS) * ROWS)
        chunks = -(-s.live // rows)
    return MemoryPlan(rows, chunks, threads, bound, (*_items(s, rows, threads), *always), s.outputs)


def blocked_products(d: int, v: int, compute: int) -> Callable[[int], tuple[int, int]]:
    """Return what `fastnll.kernels.blocked` takes for a chunk: together, and for each thread.

    Examples
    --------
    >>> blocked_products(2, 3, 8)(10)
    (320, 256)
    """
    return lambda rows: (2 * rows * d * compute, (rows + 2 * min(BLOCK, v)) * d * compute)
