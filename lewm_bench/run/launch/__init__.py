"""Where the stages of a run are made: beside each other, on other machines, through a queue."""
