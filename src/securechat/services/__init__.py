"""What users can do. Services know the ports and nothing of the wire."""
