"""The options: said once, for the command line, for Python and for configuration files.

`schema` is what an option is and how values are checked; `options` says which there are. To add one: a field in a
class of `options`, and code that uses it. Its flag, its place in signatures and docstrings, its help text, its default
and its errors follow.
"""
