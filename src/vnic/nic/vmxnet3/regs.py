"""The registers, commands and bits of a vmxnet3, named as in VMware's definitions (Linux: vmxnet3_defs.h, upt1_defs.h).

All registers have 32 bits and are 8 bytes apart. A driver uses those of the PT window (BAR 0) for packets, and those of
the VD window (BAR 1) for setting up. All else is in memory that the driver shares: see `shared.py`.
"""

from __future__ import annotations

VENDOR_VMWARE, DEVICE_VMXNET3 = 0x15AD, 0x07B0
REVISION = UPT_VERSION = 1

PT_BAR, VD_BAR, MSIX_BAR = 0, 1, 2
PT_BYTES = VD_BYTES = 0x1000
MSIX_BYTES, PBA_AT = 0x2000, 0x1000
PCIE_CAP_AT, MSI_CAP_AT, MSIX_CAP_AT, DSN_AT = 0x48, 0x84, 0x9C, 0x100  # QEMU's, in config space
STRIDE = 8

# PT window: one register for each interrupt, one for each queue
IMR = 0x000
TXPROD = 0x600
RXPROD, RXPROD2 = 0x800, 0xA00

# VD window
VRRS = 0x00  # device revisions: one bit each
UVRS = 0x08  # UPT versions: one bit each
DSAL, DSAH = 0x10, 0x18  # address of DriverShared
CMD = 0x20
MACL, MACH = 0x28, 0x30
ICR = 0x38  # INTx only; a read acknowledges
ECR = 0x40  # written: events that the driver has handled

MAX_INTERRUPTS = 25
MAX_TX_QUEUES = MAX_RX_QUEUES = 8
MAX_TX_RING, MAX_RX_RING, MAX_RX_COMPLETIONS = 4096, 4096, 8192
MIN_MTU, MAX_MTU = 60, 9000

# Commands. A read of CMD returns the answer to the last one.
ACTIVATE_DEV, QUIESCE_DEV, RESET_DEV = 0xCAFE0000, 0xCAFE0001, 0xCAFE0002
UPDATE_RX_MODE, UPDATE_MAC_FILTERS, UPDATE_VLAN_FILTERS = 0xCAFE0003, 0xCAFE0004, 0xCAFE0005
UPDATE_FEATURE = 0xCAFE0009
GET_STATS, GET_LINK = 0xF00D0001, 0xF00D0002
GET_PERM_MAC_LO, GET_PERM_MAC_HI, GET_DID_LO, GET_DID_HI = 0xF00D0003, 0xF00D0004, 0xF00D0005, 0xF00D0006
GET_ADAPTIVE_RING_INFO, ADAPTIVE_RING_DISABLED = 0xF00D0009, 1

ECR_LINK = 1 << 2  # the one event that there is, in DriverShared.ecr

# MiscConf.uptFeatures; checksum verification (bit 0), RSS (1) and LRO (3) have no effect
F_RXVLAN = 1 << 2

# RxFilterConf.rxMode
RXM_UCAST, RXM_MCAST, RXM_BCAST, RXM_ALL_MULTI, RXM_PROMISC = 1, 2, 4, 8, 16

# Descriptors: an address of 64 bits and two words
DESCRIPTOR_BYTES, GEN_INITIAL = 16, 1
TX_GEN_SHIFT = 14  # of the first word, as the length (0 to 13) and msscof (18 to 31)
TX_MSSCOF_SHIFT = 18
TX_HLEN_MASK = 0x3FF  # of the second word, as all that follows
TX_OM_SHIFT = 10
TX_EOP = 1 << 12
TX_TI = 1 << 15
TX_TCI_SHIFT = 16
LENGTH_MASK = 0x3FFF
MAX_TX_BUFFER = 1 << 14  # what a length of 0 says
OM_NONE, OM_CSUM, OM_TSO = 0, 2, 3
RX_BODY = 1 << 14  # of the first word: a buffer for what does not fit into a head
RX_GEN_SHIFT = 31

# Completions: four words, the last with the generation
COMPLETION_GEN_SHIFT = 31
INDEX_MASK = 0xFFF
RCD_EOP, RCD_SOP = 1 << 14, 1 << 15  # of the first word
RCD_QUEUE_SHIFT = 16
RCD_QUEUE_MASK = 0x3FF
RCD_CNC = 1 << 30  # no checksum calculated
RCD_TS = 1 << 15  # of the third word: the tag in its upper half was stripped
RCD_TCI_SHIFT = 16
RCD_FCS = 1 << 23  # of the fourth word: the frame's CRC is correct
RCD_TYPE = 3 << 24
