"""What is not part of a running vnic: guests, the played driver, benchmarks, the demo."""
