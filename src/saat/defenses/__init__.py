"""Defenses: adversarial train steps, purification in front of a model, and detection of attacked queries."""
