"""All that is used of TVM without being part of what it promises: one place to look when its version changes."""
