"""The composition root: where the parts meet, start and stop."""
