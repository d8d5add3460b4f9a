"""The one history of the schema, applied by Alembic."""
