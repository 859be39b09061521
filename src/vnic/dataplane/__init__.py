"""Packets between peers: the engines that move them, and what is finished in software on the way."""
