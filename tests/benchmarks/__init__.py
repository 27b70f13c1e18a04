"""Small instances of the benchmarks."""
