/* Writes and reads continuity check messages. See ccm.h. */
#include "ccm.h"

#include <string.h>

#define ETHERTYPE_CFM 0x8902u
#define OPCODE_CCM 1u
#define HEAD 14u /* of the frame; offsets from here on are of the PDU behind it */
#define FLAGS 2u
#define FIRST_TLV 3u
#define SEQUENCE 4u
#define MEP 8u
#define MAID 10u
#define TLVS 74u
#define FIRST_TLV_OFFSET 70u /* counted from its own end */
#define FLAG_RDI 0x80u
#define FLAG_INTERVAL 7u
#define TLV_END 0u
#define TLV_INTERFACE_STATUS 4u

_Static_assert(MAID + MAID_BYTES + 16 == TLVS, "the layout");
_Static_assert(HEAD + TLVS + 4 + 1 == CCM_FRAME, "the frame");

static const uint32_t intervals_us[] = {0, 3333, 10000, 100000, 1000000, 10000000, 60000000, 600000000};

uint8_t ccm_interval_code(uint32_t interval_us)
{
    for (uint8_t code = 1; code < 8; code++)
        if (intervals_us[code] == interval_us)
            return code;
    return 0;
}

uint64_t ccm_interval_ns(uint32_t interval_us)
{
    return interval_us == intervals_us[1] ? 3333333 : (uint64_t)interval_us * 1000; /* 1/300 s */
}

bool cfm_is(const uint8_t *frame, size_t len)
{
    return len >= HEAD && frame[12] == ETHERTYPE_CFM >> 8 && frame[13] == (ETHERTYPE_CFM & 0xFF);
}

int cfm_level(const uint8_t *frame, size_t len)
{
    return len > HEAD ? frame[HEAD] >> 5 : -1;
}

bool cfm_is_ccm(const uint8_t *frame, size_t len)
{
    return len > HEAD + 1 && frame[HEAD + 1] == OPCODE_CCM;
}

static void put32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

void ccm_write(uint8_t *frame, const uint8_t mac[6], const struct ccm *ccm)
{
    static const uint8_t group[5] = {0x01, 0x80, 0xc2, 0x00, 0x00};
    uint8_t *pdu = frame + HEAD;
    memset(frame, 0, CCM_FRAME);
    memcpy(frame, group, sizeof group);
    frame[5] = (uint8_t)(0x30 | ccm->level);
    memcpy(frame + 6, mac, 6);
    frame[12] = ETHERTYPE_CFM >> 8;
    frame[13] = ETHERTYPE_CFM & 0xFF;
    pdu[0] = (uint8_t)(ccm->level << 5);
    pdu[1] = OPCODE_CCM;
    pdu[FLAGS] = (uint8_t)((ccm->rdi ? FLAG_RDI : 0) | ccm_interval_code(ccm->interval_us));
    pdu[FIRST_TLV] = FIRST_TLV_OFFSET;
    put32(pdu + SEQUENCE, ccm->sequence);
    pdu[MEP] = (uint8_t)(ccm->mep >> 8);
    pdu[MEP + 1] = (uint8_t)ccm->mep;
    memcpy(pdu + MAID, ccm->maid, MAID_BYTES);
    pdu[TLVS] = TLV_INTERFACE_STATUS;
    pdu[TLVS + 2] = 1;
    pdu[TLVS + 3] = ccm->status;
    pdu[TLVS + 4] = TLV_END;
}

/* The Interface Status among the TLVs. False: they are malformed. */
static bool read_tlvs(const uint8_t *at, const uint8_t *end, uint8_t *status)
{
    while (at < end && *at != TLV_END) {
        if (end - at < 3)
            return false;
        size_t len = (size_t)at[1] << 8 | at[2];
        if ((size_t)(end - at) - 3 < len)
            return false;
        if (*at == TLV_INTERFACE_STATUS) {
            if (len != 1 || at[3] < INTERFACE_UP || at[3] > INTERFACE_LOWER_LAYER_DOWN)
                return false;
            *status = at[3];
        }
        at += 3 + len;
    }
    return true;
}

bool ccm_read(const uint8_t *frame, size_t len, struct ccm *ccm)
{
    const uint8_t *pdu = frame + HEAD, *end = frame + len;
    if (len < HEAD + TLVS || !(pdu[FLAGS] & FLAG_INTERVAL) || pdu[FIRST_TLV] < FIRST_TLV_OFFSET ||
        len < HEAD + 4u + pdu[FIRST_TLV])
        return false;
    *ccm = (struct ccm){
        .sequence = (uint32_t)pdu[SEQUENCE] << 24 | (uint32_t)pdu[SEQUENCE + 1] << 16 |
                    (uint32_t)pdu[SEQUENCE + 2] << 8 | pdu[SEQUENCE + 3],
        .interval_us = intervals_us[pdu[FLAGS] & FLAG_INTERVAL],
        .mep = (uint16_t)(pdu[MEP] << 8 | pdu[MEP + 1]),
        .rdi = pdu[FLAGS] & FLAG_RDI,
        .level = pdu[0] >> 5,
    };
    memcpy(ccm->maid, pdu + MAID, MAID_BYTES);
    return read_tlvs(pdu + 4 + pdu[FIRST_TLV], end, &ccm->status);
}
