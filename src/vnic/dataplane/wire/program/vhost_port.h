/* A guest's rings as a port: what vhost_user.c (messages) and vhost_port.c (frames) share. */
#ifndef VHOST_PORT_H
#define VHOST_PORT_H

#include "ring.h"
#include "wire.h"

/* Virtio features (virtio 1.2 §5.1.3, §6). */
#define VIRTIO_NET_F_CSUM (UINT64_C(1) << 0)
#define VIRTIO_NET_F_GUEST_CSUM (UINT64_C(1) << 1)
#define VIRTIO_NET_F_MTU (UINT64_C(1) << 3)
#define VIRTIO_NET_F_GUEST_TSO4 (UINT64_C(1) << 7)
#define VIRTIO_NET_F_GUEST_TSO6 (UINT64_C(1) << 8)
#define VIRTIO_NET_F_GUEST_ECN (UINT64_C(1) << 9)
#define VIRTIO_NET_F_HOST_TSO4 (UINT64_C(1) << 11)
#define VIRTIO_NET_F_HOST_TSO6 (UINT64_C(1) << 12)
#define VIRTIO_NET_F_HOST_ECN (UINT64_C(1) << 13)
#define VIRTIO_NET_F_MRG_RXBUF (UINT64_C(1) << 15)
#define VIRTIO_NET_F_GUEST_ANNOUNCE (UINT64_C(1) << 21)
#define VIRTIO_NET_F_MQ (UINT64_C(1) << 22)
#define VIRTIO_F_INDIRECT_DESC (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX (UINT64_C(1) << 29)
#define VHOST_USER_F_PROTOCOL_FEATURES (UINT64_C(1) << 30)
#define VIRTIO_F_VERSION_1 (UINT64_C(1) << 32)
#define VIRTIO_F_IN_ORDER (UINT64_C(1) << 35)

/* One ring, and what the front-end told of it. */
struct vhost_ring {
    struct ring ring;
    struct watch watch; /* of `kick` */
    int kick, err;      /* -1: none */
    uint32_t size;      /* 0: not told */
    bool addressed;
    uint64_t desc, avail, used; /* the front-end's addresses */
};

/* The receive filter that the guest's driver set (§5.1.6.5.1 to .3). */
struct filter {
    uint32_t bits; /* enum filter_bit */
    uint16_t overflow;
    uint16_t unicast, multicast;
    uint8_t mac[6];
    uint8_t macs[FILTER_MACS_MAX][6];
    uint8_t vlans[FILTER_VLAN_BYTES];
};

struct doorbell;
struct vhost_input;
struct vhost_socket;

struct vhost_port {
    struct port port;
    struct vhost_ring *rings; /* 2 for each queue: receive, transmit */
    struct memory *memory;    /* NULL: not told */
    struct filter *filter;    /* NULL: all frames pass */
    uint32_t rx_gso;          /* bit gso_bit(type): the driver takes such frames unsegmented */
    uint8_t header_bytes;     /* 12, or 10 for a legacy driver without mergeable buffers (§5.1.6.1) */
    bool mergeable, tx_offload, rx_offload;
    bool protocol;            /* VHOST_USER_F_PROTOCOL_FEATURES was negotiated: rings start disabled */
    uint64_t features, protocol_features;
    int sock;
    struct vhost_socket *socket; /* the main thread's watch of it */
    struct doorbell *doorbell; /* NULL: kicks come by eventfds only */
    struct vhost_input *input; /* a message that has not arrived whole; NULL: none */
};

static inline struct vhost_port *vhost_port(struct port *port)
{
    return (struct vhost_port *)port;
}

/* The bit of `rx_gso` for a gso_type; -1: no driver takes it. */
static inline int gso_bit(uint8_t gso_type)
{
    unsigned kind = gso_type & ~NET_GSO_ECN;
    return kind > 7 ? -1 : (int)(kind | (gso_type & NET_GSO_ECN ? 8 : 0));
}

/* The ring's state forbids to go on: tell the front-end (ERR) and control, and do not touch it again. */
void vhost_break(struct vhost_port *vhost, unsigned ring, const char *why);

/* Count the queues that take frames, after a ring was started, stopped, enabled or disabled. */
void vhost_rings_changed(struct vhost_port *vhost);

/* FILTER's body, checked by the channel; NULL: all frames pass. ENOMEM or 0. */
int vhost_set_filter(struct port *port, const struct filter *filter);

/* vhost_user.c: the port's `add` and `remove`, and SET_FEATURES' effect. */
int vhost_user_add(struct port *port, const struct port_request *request, char *text, size_t text_size);
void vhost_user_remove(struct port *port);
/* What GET_FEATURES and GET_PROTOCOL_FEATURES answer. */
extern const uint64_t vhost_user_features, vhost_user_protocol_features;

#endif
