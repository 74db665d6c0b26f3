"""The command line: it only translates between arguments, files and the library."""
