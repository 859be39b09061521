"""Engines that move packets between a device's rings and its net client. Device models own them."""
