"""Durable state in SQL. Only this folder knows that there is a database."""
