"""Deploy: run libraries, here or on a device over RPC."""
