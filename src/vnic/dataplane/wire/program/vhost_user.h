/* The back-end half of vhost-user (QEMU docs/interop/vhost-user.rst): numbers and layouts. vhost_user.c alone uses it. */
#ifndef VHOST_USER_H
#define VHOST_USER_H

#include <stdint.h>

enum vhost_user_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES = 2,
    VU_SET_OWNER = 3,
    VU_RESET_OWNER = 4,
    VU_SET_MEM_TABLE = 5,
    VU_SET_VRING_NUM = 8,
    VU_SET_VRING_ADDR = 9,
    VU_SET_VRING_BASE = 10,
    VU_GET_VRING_BASE = 11,
    VU_SET_VRING_KICK = 12,
    VU_SET_VRING_CALL = 13,
    VU_SET_VRING_ERR = 14,
    VU_GET_PROTOCOL_FEATURES = 15,
    VU_SET_PROTOCOL_FEATURES = 16,
    VU_GET_QUEUE_NUM = 17,
    VU_SET_VRING_ENABLE = 18,
    VU_SEND_RARP = 19,
    VU_NET_SET_MTU = 20,
};

#define VU_VERSION 1u
#define VU_VERSION_MASK 3u
#define VU_REPLY (1u << 2)
#define VU_NEED_REPLY (1u << 3)

#define VU_P_MQ (UINT64_C(1) << 0)
#define VU_P_RARP (UINT64_C(1) << 2)
#define VU_P_REPLY_ACK (UINT64_C(1) << 3)
#define VU_P_MTU (UINT64_C(1) << 4)

#define VU_RING_MASK 0xffu     /* SET_VRING_KICK, _CALL, _ERR: the ring's index, ... */
#define VU_RING_NO_FD (1u << 8) /* ... and that no descriptor comes along */
#define VU_FDS_MAX 8u

struct vu_header {
    uint32_t request, flags, size;
};
_Static_assert(sizeof(struct vu_header) == 12, "header");

struct vu_ring_state {
    uint32_t index, number;
};
_Static_assert(sizeof(struct vu_ring_state) == 8, "ring state");

struct vu_ring_addresses {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};
_Static_assert(sizeof(struct vu_ring_addresses) == 40, "ring addresses");

struct vu_region {
    uint64_t guest, size, user, offset;
};
_Static_assert(sizeof(struct vu_region) == 32, "region");

struct vu_memory {
    uint32_t count, padding;
    struct vu_region regions[VU_FDS_MAX];
};
_Static_assert(sizeof(struct vu_memory) == 8 + 8 * 32, "memory table");

union vu_payload {
    uint64_t number;
    struct vu_ring_state state;
    struct vu_ring_addresses addresses;
    struct vu_memory memory;
};

#endif
