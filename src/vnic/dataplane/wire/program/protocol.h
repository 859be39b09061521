/* The control channel's messages, version 2: SEQPACKET, little-endian, natural alignment.
 *
 * channel.c reads and writes them; vnic.dataplane.wire's Python side holds the same layouts. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 2u
#define MESSAGE_MAX (160u * 1024u)
#define MESSAGE_FDS 128u /* one for each queue of a tap, at most */

enum request {
    REQUEST_HELLO = 1,
    REQUEST_PORT_ADD = 2,
    REQUEST_PORT_REMOVE = 3,
    REQUEST_WIRE_SET = 4,
    REQUEST_FILTER = 5,
    REQUEST_DUMP = 6,
    REQUEST_INJECT = 7,
    REQUEST_STATS = 8,
    REQUEST_QUEUES = 9,
    REQUEST_SOCKET_ADD = 10,
    REQUEST_SOCKET_REMOVE = 11,
    REQUEST_CCM_SET = 12,
    REQUEST_PORT_TO_CONTROL = 13,
    REQUEST_TUNNEL_STATS = 14,
    REQUEST_SOCKET_STATS = 15,
    REQUEST_DOORBELL = 16,
    REQUEST_HOLD = 17,
    REQUEST_PORT_RECALL = 18,
    REQUEST_IMPAIR = 20,
    REQUEST_IMPAIR_STATS = 21,
    REQUEST_LINE_TAKE = 22,
    REQUEST_LINES_DROP = 23,
};

enum reply_or_event {
    MESSAGE_REPLY = 0,
    EVENT_PORT_LOST = 100,
    EVENT_RING_BROKEN = 101,
    EVENT_LOG = 102,
    EVENT_DUMP_FAILED = 103,
    EVENT_FRAME_RETURNED = 104,
    EVENT_CCM_STATE = 105,
    EVENT_FRAME_RECEIVED = 106,
    EVENT_TUNNEL_TROUBLE = 107,
};

struct message_head {
    uint32_t type;
    uint32_t serial; /* chosen by control, repeated in the reply. Events: 0, but EVENT_FRAME_RETURNED has a running number,
                      * so that a control that was started again takes none twice */
};
_Static_assert(sizeof(struct message_head) == 8, "head");

struct message_reply {
    struct message_head head;
    int32_t error; /* 0, or an errno with its text behind this struct */
    uint32_t about; /* REPLY_ABOUT of the request: who reads the reply may be another control than the one that asked */
};
_Static_assert(sizeof(struct message_reply) == 16, "reply");
#define REPLY_ABOUT(type, port) ((uint32_t)(type) << 24 | ((port) & 0xffffffu)) /* the request's first field */

struct message_hello {
    struct message_head head;
    uint32_t version;
    uint32_t workers; /* threads that move frames: 1 to WORKERS_MAX */
    uint32_t spin_us; /* how long a worker polls after its last frame before it sleeps: 0 to SPIN_MAX_US */
    uint32_t reserved;
};
_Static_assert(sizeof(struct message_hello) == 24, "hello");
#define WORKERS_MAX 64u
#define SPIN_MAX_US 1000000u

struct hello_reply {
    uint32_t version;
    uint32_t pid;
    uint64_t capabilities; /* enum sandbox: what the kernel granted */
    uint64_t vhost_features, vhost_protocol_features; /* what each VHOST port answers when it is asked */
};
_Static_assert(sizeof(struct hello_reply) == 32, "hello reply");

enum port_kind {
    PORT_VHOST = 1,
    PORT_TAP = 2,
    PORT_STREAM = 3,
    PORT_DATAGRAM = 4,
    PORT_PACKET = 5,
    PORT_TUNNEL = 6,
};

enum port_flag {
    PORT_VNET_HDR = 1,      /* a 10-byte virtio_net_hdr before each frame (TAP, PACKET) */
    PORT_MULTICAST_OWN = 2, /* DATAGRAM: drop what comes from the `own` address */
    PORT_OFFLOAD = 4,       /* the far end takes pending checksums and segmentation */
};

struct message_port_add {
    struct message_head head;
    uint32_t port; /* chosen by control: below PORTS_MAX */
    uint32_t kind;
    uint32_t queues; /* queue pairs: 1 to QUEUES_MAX */
    uint32_t flags;
    uint32_t max_frame; /* bytes; longer frames are dropped (too_long) */
    uint32_t dest_len;  /* the lengths of the two parts behind this struct, in this order */
    uint32_t own_len;
};
_Static_assert(sizeof(struct message_port_add) == 36, "port add");
#define PORTS_MAX (1u << 20)
#define QUEUES_MAX 128u

struct message_port_remove {
    struct message_head head;
    uint32_t port;
};
_Static_assert(sizeof(struct message_port_remove) == 12, "port remove");

/* The kicks of a VHOST port's VM are messages on a vfio-user connection: REGION_WRITEs to an area of a region. Takes three
 * descriptors: the connection, an eventfd that is written when it is control's turn to read it, and one that control
 * writes when it is vnic-wire's. At first it is control's. Ends with the port. */
struct message_doorbell {
    struct message_head head;
    uint32_t port;
    uint32_t region;
    uint64_t first, bytes; /* the area: offsets in the region */
    uint32_t stride;       /* bytes of it for each ring */
    uint32_t reserved;
};
_Static_assert(sizeof(struct message_doorbell) == 40, "doorbell");
#define DOORBELL_FDS 3u
#define DOORBELL_BACK (UINT64_C(1) << 32) /* control adds 1 to the latter for the turn, and so much to have it back */

struct message_wire_set {
    struct message_head head;
    uint32_t wire; /* chosen by control: below WIRES_MAX */
    uint32_t n;    /* up to WIRE_PORTS_MAX; 0 removes the wire */
    uint32_t ports[];
};
_Static_assert(sizeof(struct message_wire_set) == 16, "wire set");
#define WIRES_MAX PORTS_MAX
#define WIRE_PORTS_MAX 4096u

enum filter_bit {
    FILTER_PROMISC = 1,
    FILTER_ALLMULTI = 2,
    FILTER_ALLUNI = 4,
    FILTER_NOMULTI = 8,
    FILTER_NOUNI = 16,
    FILTER_NOBCAST = 32,
    FILTER_ENABLED = 64, /* not set: all frames pass, and the rest is not looked at */
};

enum filter_overflow {
    FILTER_UNICAST_OVERFLOW = 1,
    FILTER_MULTICAST_OVERFLOW = 2,
};

struct message_filter {
    struct message_head head;
    uint32_t port;
    uint32_t bits;
    uint8_t mac[6];
    uint16_t unicast;   /* addresses behind this struct: these first, ... */
    uint16_t multicast; /* ... these next, 64 in all at most; then 512 bytes, a bit for each VLAN (bit v & 7 of byte v >> 3) */
    uint16_t overflow;
};
_Static_assert(sizeof(struct message_filter) == 28, "filter");
#define FILTER_MACS_MAX 64u
#define FILTER_VLAN_BYTES 512u

enum dump_direction {
    DUMP_REMOVE = 0,
    DUMP_RX = 1, /* frames that the port is given (filter-dump's queue=rx of that netdev) */
    DUMP_TX = 2, /* frames that come from the port */
    DUMP_ALL = 3,
};

struct message_dump {
    struct message_head head;
    uint32_t port;
    uint32_t dump;
    uint32_t snaplen;
    uint32_t direction;
};
_Static_assert(sizeof(struct message_dump) == 24, "dump");

enum inject_direction {
    INJECT_OUT = 0, /* out at this port, as if it came from its wire */
    INJECT_IN = 1,  /* into the wire, as if this port had received it */
};

struct message_inject {
    struct message_head head;
    uint32_t port;
    uint32_t queue;
    uint32_t direction;
    /* then the frame */
};
_Static_assert(sizeof(struct message_inject) == 20, "inject");

struct message_stats {
    struct message_head head;
    uint32_t port;  /* or STATS_ALL */
    uint32_t first; /* with STATS_ALL: the lowest port to report; the reply holds up to STATS_PORTS in ascending order */
};
_Static_assert(sizeof(struct message_stats) == 16, "stats");
#define STATS_ALL 0xffffffffu
#define STATS_PORTS 700u

struct stats {
    uint64_t frames_in; /* from the far end or the guest into the wire */
    uint64_t bytes_in;
    uint64_t frames_out;
    uint64_t bytes_out;
    uint64_t no_peer; /* from here on: drops by cause */
    uint64_t no_room;
    uint64_t filtered;
    uint64_t too_long;
    uint64_t too_short;
    uint64_t bad_offload;
    uint64_t broken;
    uint64_t refused; /* the kernel did not take the frame */
};

struct port_stats {
    uint32_t port;
    uint32_t queues; /* in use */
    struct stats stats;
};
_Static_assert(sizeof(struct port_stats) == 8 + 12 * 8, "port stats");

struct message_queues {
    struct message_head head;
    uint32_t port;
    uint32_t pairs; /* 1 up to the port's `queues` */
};
_Static_assert(sizeof(struct message_queues) == 16, "queues");

/* -- impairments (impair.h has what they do) --------------------------------------------------------------------- */

enum impair_direction {
    IMPAIR_OUT = 1, /* frames that are delivered to the port (netem's queue=rx of that netdev) */
    IMPAIR_IN = 2,  /* frames that come from it */
};

enum impair_flag {
    IMPAIR_ON = 1,    /* not set: the impairment ends, and what is under way is dropped */
    IMPAIR_STATE = 2, /* one that is there takes `state`, too; a new one does so in any case */
};

/* What random numbers with a correlation are drawn for. */
enum draw { DRAW_DELAY, DRAW_LOSS, DRAW_DUPLICATE, DRAW_CORRUPT, DRAW_REORDER, DRAWS };

/* What the next decision depends on, beside the parameters. */
struct impair_state {
    uint64_t random;
    uint32_t last[DRAWS];
    uint32_t counter; /* frames since the last one that was reordered, up to the gap */
};
_Static_assert(sizeof(struct impair_state) == 32, "impair state");

struct message_impair {
    struct message_head head;
    uint32_t port;
    uint32_t direction;
    uint32_t flags;
    uint32_t limit; /* frames under way: 1 to IMPAIR_LIMIT_MAX */
    uint64_t delay_ns; /* up to IMPAIR_NS_MAX, as the jitter */
    uint64_t jitter_ns;
    uint64_t rate; /* bytes per second: up to IMPAIR_RATE_MAX; 0: no limit */
    uint32_t loss; /* probabilities: of 2^32 - 1 */
    uint32_t duplicate;
    uint32_t corrupt;
    uint32_t reorder;
    uint32_t correlation[DRAWS];
    uint32_t gap;       /* every gap-th frame may be reordered; 0: none is */
    uint32_t max_frame; /* bytes: longer ones are lost; 0: none is */
    uint32_t entries;   /* of the table of the jitter's distribution: up to IMPAIR_ENTRIES_MAX; 0: uniform */
    struct impair_state state;
    int16_t table[];
};
_Static_assert(sizeof(struct message_impair) == 128, "impair");
#define IMPAIR_LIMIT_MAX 1000000u
#define IMPAIR_BYTES_MAX (256u << 20) /* of the frames under way in one direction */
#define IMPAIR_NS_MAX UINT64_C(3600000000000)
#define IMPAIR_RATE_MAX UINT64_C(1000000000000)
#define IMPAIR_ENTRIES_MAX 16384u

struct message_impair_stats {
    struct message_head head;
    uint32_t port;
    uint32_t direction;
};
_Static_assert(sizeof(struct message_impair_stats) == 16, "impair stats");

/* The reply to these and to LINE_TAKE: as it is now, or as it was at the end. */
struct impair_reply {
    struct impair_state state;
    uint64_t passed; /* left for the next place */
    uint64_t lost;
    uint64_t duplicated;
    uint64_t corrupted;
    uint64_t reordered;
    uint64_t over_limit;
    uint64_t too_long;
    uint64_t waiting; /* under way; at the end, dropped with it */
};
_Static_assert(sizeof(struct impair_reply) == 96, "impair reply");

/* -- a control that was started again ----------------------------------------------------------------------------- */

/* HOLD is a message_head alone. All wires are removed at once; the ports that were in one send nothing until they are in
 * another, or are removed. Frames wait where they are. */

/* PORT_REMOVE for a control that does not know what the port has done. The frames under way in the port's lines are kept. */
struct message_port_recall {
    struct message_head head;
    uint32_t port;
};
_Static_assert(sizeof(struct message_port_recall) == 12, "port recall");

/* Its reply. Behind it, for a TUNNEL, a struct tunnel_state and a struct tunnel_stats; then the lines. */
struct recall_reply {
    struct port_stats stats;
    uint32_t kind;
    uint32_t lines;
};
_Static_assert(sizeof(struct recall_reply) == 112, "recall reply");

struct kept_line {
    uint32_t direction;
    uint32_t reserved;
    struct impair_reply reply;
};
_Static_assert(sizeof(struct kept_line) == 104, "kept line");

/* `port` gets the line that was kept of the port `of`, with the frames under way, which keep their time. IMPAIR follows.
 * ENOENT: there is none; EEXIST: the port has a line. */
struct message_line_take {
    struct message_head head;
    uint32_t port;
    uint32_t direction;
    uint32_t of;
};
_Static_assert(sizeof(struct message_line_take) == 20, "line take");

/* LINES_DROP is a message_head alone. All lines that are still kept end, and what is under way there is dropped. */

struct event_port_lost {
    struct message_head head;
    uint32_t port;
    int32_t error; /* errno; 0: the end of the stream */
    uint32_t queue;
};
_Static_assert(sizeof(struct event_port_lost) == 20, "port lost");

struct event_ring_broken {
    struct message_head head;
    uint32_t port;
    uint32_t ring;
    /* then the text */
};
_Static_assert(sizeof(struct event_ring_broken) == 16, "ring broken");

struct event_log {
    struct message_head head;
    uint32_t level; /* Python logging's */
    /* then the text */
};
_Static_assert(sizeof(struct event_log) == 12, "log");

struct event_dump_failed {
    struct message_head head;
    uint32_t dump;
    int32_t error;
};
_Static_assert(sizeof(struct event_dump_failed) == 16, "dump failed");

/* EVENT_FRAME_RETURNED: a frame that a removed port had read and not passed on; before the reply to PORT_REMOVE.
 * EVENT_FRAME_RECEIVED: a frame of a TUNNEL whose frames go to control (PORT_TO_CONTROL). */
struct event_frame {
    struct message_head head;
    uint32_t port;
    uint32_t queue;
    uint8_t hdr[10]; /* its virtio_net_hdr */
    uint16_t reserved;
    /* then the frame */
};
_Static_assert(sizeof(struct event_frame) == 28, "frame");

/* -- tunnels -------------------------------------------------------------------------------------------------- */

/* Tunnels with the same local address share one UDP socket, where they receive. It is bound and not connected; its options
 * are control's, also UDP_GRO. Comes with one descriptor. */
struct message_socket_add {
    struct message_head head;
    uint32_t socket; /* chosen by control: below SOCKETS_MAX */
};
_Static_assert(sizeof(struct message_socket_add) == 12, "socket add");
#define SOCKETS_MAX PORTS_MAX

/* Its descriptor is closed before the reply. EBUSY while a port uses it. */
struct message_socket_remove {
    struct message_head head;
    uint32_t socket;
};
_Static_assert(sizeof(struct message_socket_remove) == 12, "socket remove");

enum ccm_mode {
    CCM_OFF = 0, /* none is sent, none is judged: they pass as frames */
    CCM_ON = 1,
    CCM_AUTO = 2, /* none is expected before the first one was heard */
};

enum ccm_heard {
    CCM_NEVER = 0,
    CCM_HEARD = 1,
    CCM_LOST = 2,
};

/* The part of a TUNNEL that changes: control gives it to a port and gets it from a removed one (PORT_REMOVE's reply), so
 * that neither hears a false alarm, nor sends what the peer takes for a repetition. */
struct tunnel_state {
    uint64_t counter;        /* of the key's trailer, to be sent next */
    uint64_t remote_counter; /* the highest one accepted; 0: none was */
    uint64_t remote_window;  /* bit i: remote_counter - i was accepted */
    uint64_t heard_ns;       /* CLOCK_MONOTONIC of the last CCM accepted; 0: never */
    uint32_t sequence;       /* of the CCM to be sent next */
    uint32_t remote_sequence;
    uint32_t remote_interval_us; /* as the last CCM says; 0: none came */
    uint16_t remote_mep;         /* 0: none came */
    uint8_t heard;               /* enum ccm_heard */
    uint8_t rdi;                 /* of the last CCM: the peer does not hear us */
    uint8_t remote_status;       /* enum interface_status; 0: the last CCM has no such TLV */
    uint8_t refused;             /* ICMP says that the peer does not listen, and no CCM came since */
    uint16_t reserved;
    uint32_t more_reserved;
};
_Static_assert(sizeof(struct tunnel_state) == 56, "tunnel state");

#define MAID_BYTES 48u
#define KEY_BYTES 32u

/* The Interface Status TLV (802.1Q §21.5.5). */
enum interface_status {
    INTERFACE_UP = 1,
    INTERFACE_DOWN = 2,
    INTERFACE_NOT_PRESENT = 6,
    INTERFACE_LOWER_LAYER_DOWN = 7,
};

/* PORT_ADD's `own` of a TUNNEL. Its `dest` is the sockaddr of the peer, whose address is that of the datagrams that belong
 * to it; the port number means nothing. Its descriptor is a connected UDP socket, where it sends. */
struct tunnel_config {
    uint32_t socket; /* where it receives */
    uint32_t vni;    /* below 2^24 */
    uint32_t interval_us; /* of CCMs: 3333, 10000, ... 600000000; 0 with CCM_OFF */
    uint8_t mode;         /* enum ccm_mode */
    uint8_t level;        /* 0 to 7 */
    uint16_t mep;         /* our end: 1 to 8191 */
    uint8_t maid[MAID_BYTES];
    uint8_t mac[6];     /* the source address of CCMs */
    uint8_t status;     /* enum interface_status: ours */
    uint8_t key_length; /* 0: no key; KEY_BYTES */
    uint8_t key[KEY_BYTES];
    struct tunnel_state state;
};
_Static_assert(offsetof(struct tunnel_config, state) == 104, "tunnel config");
_Static_assert(sizeof(struct tunnel_config) == 160, "tunnel config");

/* Our Interface Status; a CCM with it is sent at once. */
struct message_ccm_set {
    struct message_head head;
    uint32_t port;
    uint32_t status; /* enum interface_status */
};
_Static_assert(sizeof(struct message_ccm_set) == 16, "ccm set");

/* Where a TUNNEL's frames go: to control (EVENT_FRAME_RECEIVED), or into its wire. */
struct message_port_to_control {
    struct message_head head;
    uint32_t port;
    uint32_t on; /* 0 or 1 */
};
_Static_assert(sizeof(struct message_port_to_control) == 16, "port to control");

struct message_tunnel_stats {
    struct message_head head;
    uint32_t port;
};
_Static_assert(sizeof(struct message_tunnel_stats) == 12, "tunnel stats");

/* What is not in the port's statistics. All but the first two were dropped. */
struct tunnel_stats {
    uint64_t ccm_sent;
    uint64_t ccm_received; /* accepted ones */
    uint64_t wrong_level;
    uint64_t wrong_maid;
    uint64_t wrong_mep; /* our own, in a CCM or a trailer: sent back to us, or two ends of one number */
    uint64_t bad_ccm;
    uint64_t old_sequence;
    uint64_t bad_key;
    uint64_t replayed;  /* a trailer's counter that was there before, or is too old to tell */
    uint64_t truncated; /* without room for an Ethernet header or the trailer */
};
_Static_assert(sizeof(struct tunnel_stats) == 80, "tunnel stats");

struct message_socket_stats {
    struct message_head head;
    uint32_t socket;
};
_Static_assert(sizeof(struct message_socket_stats) == 12, "socket stats");

/* Datagrams that belong to no port, all dropped. */
struct socket_stats {
    uint64_t unknown_vni;
    uint64_t unknown_source; /* a known VNI from another address */
    uint64_t truncated;
    uint64_t not_vxlan;
};
_Static_assert(sizeof(struct socket_stats) == 32, "socket stats");

/* Something of it has changed. One that control has not read yet is brought up to date. */
struct event_ccm_state {
    struct message_head head;
    uint32_t port;
    uint8_t heard; /* enum ccm_heard */
    uint8_t rdi;
    uint8_t status;
    uint8_t refused;
    uint32_t silent_us; /* since the last CCM; 0: none came */
    uint32_t remote_sequence; /* of the last CCM */
};
_Static_assert(sizeof(struct event_ccm_state) == 24, "ccm state");

/* A counter of its struct tunnel_stats is not zero any more; once for each. Control has words for it. */
struct event_tunnel_trouble {
    struct message_head head;
    uint32_t port;
    uint32_t counter; /* its number in the struct */
};
_Static_assert(sizeof(struct event_tunnel_trouble) == 16, "tunnel trouble");

/* -- the memory of a STREAM ----------------------------------------------------------------------------------- */

/* The second descriptor of a STREAM is a file of STREAM_MEMORY bytes that control made and sealed against shrinking. The
 * port keeps in it what another one needs to go on with the stream, so that this program may be killed at any
 * instruction; control writes the first state, and reads the last one when the port or the program is gone.
 *
 * Of the two slots of a direction, the turn says which one holds; one store of the turn moves on to the other. A slot
 * includes the system call that was made under it: the kernel writes `done` before the call returns, and nothing else in
 * the slot changes while it holds.
 *   in:  what was read and not passed on is in[at : end + done].
 *   out: without frames, what was not sent is out[at + done : end]. Otherwise `done` bytes of these frames, each behind
 *        its length, were sent. A frame of which a part was sent has to be completed; its bytes may be lost. */
#define STREAM_BYTES (4u + 69632u) /* at most of one direction: the longest frame and its length */
#define STREAM_FRAMES 64u

/* The kernel's struct mmsghdr, which C libraries may alter on the way. */
struct stream_call {
    uint64_t name;
    uint32_t name_len, padding;
    uint64_t iov, iov_count, control, control_len;
    uint32_t flags, more_padding;
    uint32_t done; /* bytes */
    uint32_t last_padding;
};
_Static_assert(sizeof(struct stream_call) == 64, "stream call");

struct stream_slot {
    uint32_t at, end;
    uint32_t frames; /* up to STREAM_FRAMES */
    uint32_t reserved;
    struct stream_call call;
    uint32_t lengths[STREAM_FRAMES];
};
_Static_assert(sizeof(struct stream_slot) == 336, "stream slot");

struct stream_memory {
    uint32_t in_turn, out_turn; /* 0 or 1 */
    uint32_t reserved[14];
    struct stream_slot in_slots[2], out_slots[2];
    uint8_t padding[4096 - 64 - 4 * sizeof(struct stream_slot)];
    uint8_t in[2 * STREAM_BYTES];
    uint8_t out[STREAM_BYTES];
};
#define STREAM_MEMORY 217088u
_Static_assert(offsetof(struct stream_memory, out) == 4096 + 2 * STREAM_BYTES, "stream memory");
_Static_assert(sizeof(struct stream_memory) <= STREAM_MEMORY, "stream memory's file");

#endif
