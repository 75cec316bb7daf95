"""The search service: an engine from image bytes to hits, its HTTP interface, a page, and a client."""
