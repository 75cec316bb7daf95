"""Hashing objectives: one small file a family, pure functions for the mathematics."""
