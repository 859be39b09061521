"""Labs, guests, the played driver, benchmarks, the demo: no part of a running vnic.

The verbs `lab`, `demo`, `guest`, `doctor` and `bench` import it, and the tests."""
