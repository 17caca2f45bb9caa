"""Tumour entities, what looks like them, and imaging signs, by organ; each fact with where it was looked up."""
