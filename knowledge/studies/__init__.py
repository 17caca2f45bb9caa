"""The imaging archive: read, check, store, and give back volumes with true geometry."""
