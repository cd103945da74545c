"""Files of sequences: fastnll's own, and those of others."""

from fastnll.data.formats.arrow import from_arrow
from fastnll.data.formats.opening import open_dataset, recognise
from fastnll.data.formats.texts import iter_jsonl
from fastnll.data.formats.textual import Texts, holds_text, iter_texts
from fastnll.data.formats.writing import write_dataset

__all__ = [
    "Texts",
    "from_arrow",
    "holds_text",
    "iter_jsonl",
    "iter_texts",
    "open_dataset",
    "recognise",
    "write_dataset",
]
