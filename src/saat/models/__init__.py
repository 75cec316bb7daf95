"""Hashing models: normalize, backbone, hash layer; and their checkpoints."""
