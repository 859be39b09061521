"""Intel's gigabit NICs: the units that the models share, and a package for each model."""
