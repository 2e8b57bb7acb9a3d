"""The command `cidr`. Thin: it parses, calls the library and prints."""
