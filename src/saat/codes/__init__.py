"""Banks of codes, and the semantic codes computed from them."""
