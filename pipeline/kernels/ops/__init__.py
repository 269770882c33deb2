"""One module for each operator or family of them: what it asks of loops and vectors."""
