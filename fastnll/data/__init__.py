"""Datasets of token sequences: in memory, from files, from text; batches and counts of them."""

from fastnll.data.batches import batches
from fastnll.data.bpe import BpeTokenizer
from fastnll.data.datasets import opcodes, python_docs, python_source
from fastnll.data.features import FeatureDataset
from fastnll.data.formats import from_arrow, iter_jsonl, open_dataset, write_dataset
from fastnll.data.inspection import inspect, validate
from fastnll.data.names import NameTokenizer
from fastnll.data.pieces import Pieces
from fastnll.data.sequences import SequenceDataset
from fastnll.data.statistics import (
    bigram_counts,
    bigram_entropy,
    bigram_pairs,
    n_pairs,
    unigram_counts,
    unigram_entropy,
)
from fastnll.data.text import read_text
from fastnll.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, make_tokenizer, tokenizer_from_dict

__all__ = [
    "BpeTokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "FeatureDataset",
    "NameTokenizer",
    "Pieces",
    "SequenceDataset",
    "Tokenizer",
    "batches",
    "bigram_counts",
    "bigram_entropy",
    "bigram_pairs",
    "from_arrow",
    "inspect",
    "iter_jsonl",
    "make_tokenizer",
    "n_pairs",
    "opcodes",
    "open_dataset",
    "python_docs",
    "python_source",
    "read_text",
    "tokenizer_from_dict",
    "unigram_counts",
    "unigram_entropy",
    "validate",
    "write_dataset",
]
