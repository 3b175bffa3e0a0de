"""Tables, figures, sentences and page of what the examinations found."""
