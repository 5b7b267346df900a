"""The classifier, its parts, its names and its weights."""
