"""Imaging models as MONAI bundles: catalogue, loading, running."""
