"""`make soak`: guests with traffic on a `vnic run --keep` whose processes are killed at random all the time."""
