"""Engines that move packets between a device's rings and its net client; device models own them."""
