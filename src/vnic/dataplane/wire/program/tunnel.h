/* What the files of tunnels share: a VXLAN tunnel's port, its end of the continuity check, and the socket where it
 * receives with others. tunnel_port.c sends, tunnel_socket.c receives, mep.c has the CCMs, tunnel_requests.c asks. */
#ifndef TUNNEL_H
#define TUNNEL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "ccm.h"
#include "ends.h"
#include "key.h"

#define VXLAN_HEADER 8u
#define DATAGRAM_MAX 65507u  /* of UDP over IPv4 */
#define VLAN_TAG 4u          /* max_frame is that of an untagged frame */
#define TUNNEL_BUCKETS 256u

struct tunnel_port;

/* A message of the log that a stream of bad datagrams does not repeat. Zeroed at first. */
struct complaint {
    uint64_t logged_ns;
};

/* A socket where tunnels receive. It is a port of no wire, so that a worker reads it. */
struct tunnel_socket {
    struct port port;
    struct tunnel_socket *next; /* main thread: of all sockets */
    uint32_t id;
    int fd;
    struct watch watch;
    unsigned users;    /* it is read while there are any */
    uint64_t quiet_ns; /* until then, more tunnels may come, and their datagrams are not worth a line */
    struct tunnel_port *buckets[TUNNEL_BUCKETS]; /* by VNI */
    struct socket_stats stats;
    struct complaint unknown_vni, unknown_source, truncated, not_vxlan;
    atomic_bool reading; /* a worker has datagrams whose CCMs it has not judged yet */
    atomic_ulong read;   /* datagrams that it has judged */
};

/* One end of the continuity check. */
struct mep {
    struct mep *next, **link; /* of all; locked by mep.c's list */
    pthread_mutex_t lock;     /* what follows */
    uint8_t mode, level, status;
    uint16_t id;
    uint32_t interval_us;
    uint64_t interval_ns;
    uint8_t maid[MAID_BYTES], mac[6];
    struct tunnel_state state; /* without the counters of the key */
    uint64_t due_ns;           /* when the next CCM is to be sent */
    bool suspected;            /* the peer is silent for too long, or its CCMs wait at the socket */
    unsigned long suspected_at, suspected_until; /* in datagrams read */
};

struct tunnel_port {
    struct port port;
    int fd; /* connected: where it sends */
    struct watch watch;
    struct tunnel_socket *socket;
    struct tunnel_port *next; /* in the socket's bucket */
    uint32_t vni;
    struct sockaddr_storage remote;
    bool to_control;
    uint32_t segment_max;    /* larger datagrams are sent one by one: the path's MTU does not allow them in a run */
    uint32_t until_retry;    /* datagrams until runs are tried again */
    struct backlog backlog;
    struct key key;
    struct mep mep;
    struct tunnel_stats stats; /* what CCMs count is the mep's, locked by it */
    uint32_t told; /* bit i: control was told of counter i of `stats` */
};

uint64_t tunnel_now_ns(void);

/* Whether to log this now: the first time, and once a minute. */
bool complain(struct complaint *complaint);

/* Worker: count a datagram or CCM that is dropped, in tunnel->stats. Control is told of the first one. */
void tunnel_trouble(struct tunnel_port *tunnel, uint64_t *counter);

/* The longest Ethernet frame that one datagram of the tunnel carries. */
uint32_t tunnel_frame_max(const struct tunnel_port *tunnel);

/* Whether an Ethernet frame is longer than the tunnel's MTU allows. */
bool tunnel_is_long(const struct tunnel_port *tunnel, const uint8_t *frame, size_t len);

/* Whether the frame is one of CFM at or below our level: it ends here, and comes from here. */
bool tunnel_owns(const struct tunnel_port *tunnel, const uint8_t *frame, size_t len);

void tunnel_write_header(const struct tunnel_port *tunnel, uint8_t *datagram);

/* Send one Ethernet frame of our own. 0 or an errno. Any thread. */
int tunnel_send(struct tunnel_port *tunnel, const uint8_t *frame, size_t len);

/* -- tunnel_socket.c ---------------------------------------------------------------------------------------------- */

extern const struct port_ops tunnel_socket_ops;

/* Main thread. NULL: there is none of this number. */
struct tunnel_socket *tunnel_socket_find(uint32_t id);

/* Main thread, the worker locked. 0 or an errno: EEXIST, where the socket has a tunnel of that VNI and peer. */
int tunnel_socket_join(struct tunnel_socket *socket, struct tunnel_port *tunnel);
void tunnel_socket_leave(struct tunnel_port *tunnel);

/* Any thread: whether no datagram of before now waits there, or is being judged. */
bool tunnel_socket_is_quiet(struct tunnel_socket *socket);

/* The most datagrams that wait there now. */
unsigned long tunnel_socket_backlog(struct tunnel_socket *socket);

/* Main thread, workers started. 0 or an errno; the descriptor is the socket's when 0. */
int tunnel_socket_add(uint32_t id, int fd);
int tunnel_socket_remove(uint32_t id); /* ENOENT, EBUSY */

/* -- mep.c -------------------------------------------------------------------------------------------------------- */

/* Main thread, while it has its rights: mep_start's thread inherits from here that it comes first. */
void mep_may_hurry(void);

/* Main thread: start the thread of the CCMs, once, and wait until it runs. 0 or an errno. */
int mep_start(void);

/* A lock that the thread takes: who holds it runs as soon as the thread would. */
void mep_lock_init(pthread_mutex_t *lock);

/* Main thread. */
void mep_add(struct tunnel_port *tunnel);
void mep_remove(struct tunnel_port *tunnel);
void mep_set_status(struct tunnel_port *tunnel, uint8_t status);

/* Worker: a CFM frame that tunnel_owns. */
void mep_receive(struct tunnel_port *tunnel, const uint8_t *frame, size_t len);

/* Any thread: ICMP says that nothing listens there. */
void mep_refused(struct tunnel_port *tunnel);

/* Main thread: control has gone, and the process is about to end. Tell all peers. */
void mep_goodbye(void);

#endif
