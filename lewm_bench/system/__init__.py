"""The machine: files and what is read from them."""
