"""Defenses: adversarial train steps."""
