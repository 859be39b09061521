"""`vnic rehearse`: the convergence stopwatch. Probes go between two guests of a lab while a link is pulled; captures at
the NICs say when they came, and the guests say which were delivered.
"""
