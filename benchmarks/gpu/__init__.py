"""What one GPU gives: one script, no network, no installation. `python -m benchmarks.gpu --help`."""
