"""The HTTP edge: REST, static files, health, administration."""
