"""Alembic's entry: run on the connection that `store.migrate` hands over, or write PostgreSQL's statements as text."""

from alembic import context

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        output_buffer=context.config.attributes["text"],
        transactional_ddl=False,  # Whoever executes it has a transaction.
        literal_binds=True,
    )
else:
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
