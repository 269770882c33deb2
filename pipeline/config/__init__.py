"""The options, each declared once for the command line, for Python and for configuration files.

`schema` defines what an option is and how its values are checked; `options` declares all options; `values` reads values
that are written in a form of their own on the command line. To add an option, add a field to a class of `options`, and
the code that uses it. Its flag, help text, default, errors, and its place in signatures and docstrings follow from
that.
"""
