"""Guest memory: the regions that a VM shares, shadow copies of the ones it does not, and recovery from SIGBUS.

The attachments add and remove regions; rings and device models read and write them.
"""
