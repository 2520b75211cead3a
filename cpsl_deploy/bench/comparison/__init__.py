"""Two records of benchmarks held against each other: what changed, and whether it is a regression."""
