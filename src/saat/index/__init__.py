"""Search over packed codes, and the directory that keeps them. Nothing here imports torch."""
