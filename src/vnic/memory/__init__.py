"""Guest memory: what a VM shares, shadow copies of what it does not, and outliving memory that is taken away."""
