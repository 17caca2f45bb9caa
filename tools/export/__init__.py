"""What leaves the house, in the standards' own forms."""
