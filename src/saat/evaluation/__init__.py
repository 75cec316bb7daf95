"""Metrics, flags and reports: numbers that can be trusted."""
