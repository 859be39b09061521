"""Intel's gigabit NICs: the units that the models share. Each model has a package."""
