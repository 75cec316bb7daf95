"""Data sets: readers of formats, named sets, splits and batches."""
