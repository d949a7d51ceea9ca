"""Programs of any network: a graph as data, a table of operations, and the module that is built from both."""
