"""Attacks on queries: how far (threat), where to (goal), how to search (attack)."""
