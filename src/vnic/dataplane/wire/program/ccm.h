/* Continuity check messages, as bytes (IEEE 802.1Q-2018 §21.6.1). mep.c sends and judges them. */
#ifndef CCM_H
#define CCM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

#define CFM_HEAD 18u    /* bytes of a frame that tell what it is: addresses, EtherType, the common header */
#define CCM_FRAME 93u   /* bytes of a frame that ccm_write makes */
#define CCM_MEP_MAX 8191u

/* An untagged frame's first bytes: whether it is one of CFM. Then its level, or -1 where that is missing. */
bool cfm_is(const uint8_t *frame, size_t len);
int cfm_level(const uint8_t *frame, size_t len);
bool cfm_is_ccm(const uint8_t *frame, size_t len);

/* One of enum values 1 to 7 for an interval in µs (3333 to 600000000), or 0: it is none of them; and its length. */
uint8_t ccm_interval_code(uint32_t interval_us);
uint64_t ccm_interval_ns(uint32_t interval_us);

struct ccm {
    uint32_t sequence;
    uint32_t interval_us;
    uint16_t mep;
    bool rdi;
    uint8_t status; /* enum interface_status; 0: there is no such TLV */
    uint8_t level;
    uint8_t maid[MAID_BYTES];
};

/* The whole Ethernet frame, CCM_FRAME bytes. */
void ccm_write(uint8_t *frame, const uint8_t mac[6], const struct ccm *ccm);

/* False: it is malformed. `frame` is a CCM with a level. */
bool ccm_read(const uint8_t *frame, size_t len, struct ccm *ccm);

#endif
