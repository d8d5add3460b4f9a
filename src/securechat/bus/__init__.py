"""Events from the one who committed to the hubs."""
