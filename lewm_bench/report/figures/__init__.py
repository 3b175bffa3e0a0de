"""What draws: a file per figure or family of figures, from a summary's numbers; ``files`` says which goes where."""
