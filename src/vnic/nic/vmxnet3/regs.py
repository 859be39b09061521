"""The registers, commands and bits of a vmxnet3, named as in VMware's definitions (Linux: vmxnet3_defs.h, upt1_defs.h).

All registers have 32 bits and are 8 bytes apart. A driver uses those of the PT window (BAR 0) for packets, and those of
the VD window (BAR 1) for setting up. All else is in memory that the driver shares: see `shared.py`.
"""

from __future__ import annotations

VENDOR_VMWARE = 0x15AD
DEVICE_VMXNET3 = 0x07B0
REVISION = 1
UPT_VERSION = 1

PT_BAR, VD_BAR, MSIX_BAR = 0, 1, 2
PT_BYTES = VD_BYTES = 0x1000
MSIX_BYTES, MSIX_PBA_AT = 0x2000, 0x1000
PCIE_CAP_AT, MSI_CAP_AT, MSIX_CAP_AT, DSN_AT = 0x48, 0x84, 0x9C, 0x100  # QEMU's, in config space
STRIDE = 8

# PT window: one register for each interrupt, one for each queue
IMR = 0x000
TXPROD = 0x600
RXPROD = 0x800
RXPROD2 = 0xA00

# VD window
VRRS = 0x00  # device revisions: one bit each
UVRS = 0x08  # UPT versions: one bit each
DSAL = 0x10  # address of DriverShared
DSAH = 0x18
CMD = 0x20
MACL = 0x28
MACH = 0x30
ICR = 0x38  # INTx only; a read acknowledges
ECR = 0x40  # written: events that the driver has handled

MAX_INTERRUPTS = 25
MAX_TX_QUEUES = MAX_RX_QUEUES = 8
MAX_TX_RING = 4096
MAX_RX_RING = 4096
MAX_RX_COMPLETIONS = 8192
MIN_MTU, MAX_MTU = 60, 9000

# Commands. A read of CMD returns the answer to the last one.
ACTIVATE_DEV = 0xCAFE0000
QUIESCE_DEV = 0xCAFE0001
RESET_DEV = 0xCAFE0002
UPDATE_RX_MODE = 0xCAFE0003
UPDATE_MAC_FILTERS = 0xCAFE0004
UPDATE_VLAN_FILTERS = 0xCAFE0005
UPDATE_FEATURE = 0xCAFE0009
GET_QUEUE_STATUS = 0xF00D0000
GET_STATS = 0xF00D0001
GET_LINK = 0xF00D0002
GET_PERM_MAC_LO = 0xF00D0003
GET_PERM_MAC_HI = 0xF00D0004
GET_DID_LO = 0xF00D0005
GET_DID_HI = 0xF00D0006
GET_ADAPTIVE_RING_INFO = 0xF00D0009

ADAPTIVE_RING_DISABLED = 1

# Events, in DriverShared.ecr
ECR_RQERR = 1 << 0
ECR_TQERR = 1 << 1
ECR_LINK = 1 << 2

# MiscConf.uptFeatures; checksum verification (bit 0), RSS (1) and LRO (3) have no effect
F_RXVLAN = 1 << 2

# RxFilterConf.rxMode
RXM_UCAST = 1 << 0
RXM_MCAST = 1 << 1
RXM_BCAST = 1 << 2
RXM_ALL_MULTI = 1 << 3
RXM_PROMISC = 1 << 4

# Descriptors: an address of 64 bits and two words
DESCRIPTOR_BYTES = 16
GEN_INITIAL = 1
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
RCD_EOP = 1 << 14  # of the first word
RCD_SOP = 1 << 15
RCD_QUEUE_SHIFT = 16
RCD_QUEUE_MASK = 0x3FF
RCD_CNC = 1 << 30  # no checksum calculated
RCD_TS = 1 << 15  # of the third word: the tag in its upper half was stripped
RCD_TCI_SHIFT = 16
RCD_FCS = 1 << 23  # of the fourth word: the frame's CRC is correct
RCD_TYPE = 3 << 24

# QueueStatus.error of a queue that was stopped
ERR_BIG_PKT = 0x80000002  # a packet of too many descriptors
