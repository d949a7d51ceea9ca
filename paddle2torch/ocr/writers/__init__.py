"""One module for each kind of document that results are written as."""
