/* The trailer by which the ends of a tunnel know each other's datagrams: a keyed BLAKE2b, and a counter against
 * repetition. tunnel_port.c seals what it sends, and tunnel_socket.c opens what comes.
 *
 * Behind the Ethernet frame: u8 version 1, u8 0, u16 MEP of the sender, u64 counter (big-endian), then 16 bytes of BLAKE2b
 * (RFC 7693) over all that is before, from the VXLAN header on. It authenticates; nothing is encrypted. */
#ifndef KEY_H
#define KEY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

#define KEY_TRAILER 28u

struct key {
    bool on;
    uint8_t bytes[KEY_BYTES];
    uint16_t mep; /* ours */
    pthread_mutex_t lock; /* the order of counters is that of the datagrams: from key_seal until they are sent */
    uint64_t counter;     /* locked: to be sent next */
    uint64_t remote_counter, remote_window; /* the receiving worker's: see struct tunnel_state */
};

enum key_result {
    KEY_GOOD,
    KEY_SHORT,
    KEY_BAD,
    KEY_OWN, /* it is ours, and came back */
    KEY_REPLAYED,
};

/* Write the trailer behind `len` bytes of a datagram. The caller holds the lock. */
void key_seal(struct key *key, uint8_t *datagram, size_t len);

/* Check the datagram's trailer. KEY_GOOD: *len is less the trailer, and its counter counts as seen. */
enum key_result key_open(struct key *key, const uint8_t *datagram, size_t *len);

#endif
