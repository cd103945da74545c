"""The benchmarks: one table of cases, one of contenders, correctness before time."""
