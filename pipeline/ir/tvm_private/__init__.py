"""All uses of TVM's private names, which may change with any version of TVM."""
