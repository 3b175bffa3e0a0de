"""Tables, figures, sentences and page of what agents did in changed worlds."""
