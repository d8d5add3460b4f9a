"""Who you are, and how often you may ask."""
