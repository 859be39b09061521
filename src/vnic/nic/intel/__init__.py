"""Intel's gigabit NICs: what the models share, and a folder for each."""
