/* Seals and opens the datagrams of tunnels with a key. See key.h. */
#include "key.h"

#include <string.h>

#include "vendor/monocypher.h"

#define VERSION 1u
#define HEAD 12u
#define MAC 16u
#define WINDOW 64u

_Static_assert(HEAD + MAC == KEY_TRAILER, "the trailer");

void key_seal(struct key *key, uint8_t *datagram, size_t len)
{
    uint8_t *head = datagram + len;
    uint64_t counter = key->counter++;
    head[0] = VERSION;
    head[1] = 0;
    head[2] = (uint8_t)(key->mep >> 8);
    head[3] = (uint8_t)key->mep;
    for (unsigned i = 0; i < 8; i++)
        head[4 + i] = (uint8_t)(counter >> (56 - 8 * i));
    crypto_blake2b_keyed(head + HEAD, MAC, key->bytes, KEY_BYTES, datagram, len + HEAD);
}

/* Whether this counter is new (RFC 4303 §3.4.3); if so, it is not any more. */
static bool is_new(struct key *key, uint64_t counter)
{
    if (!counter)
        return false;
    if (counter > key->remote_counter) {
        uint64_t ahead = counter - key->remote_counter;
        key->remote_window = (ahead < WINDOW ? key->remote_window << ahead : 0) | 1;
        key->remote_counter = counter;
        return true;
    }
    uint64_t behind = key->remote_counter - counter;
    if (behind >= WINDOW || key->remote_window >> behind & 1)
        return false;
    key->remote_window |= (uint64_t)1 << behind;
    return true;
}

enum key_result key_open(struct key *key, const uint8_t *datagram, size_t *len)
{
    if (*len < KEY_TRAILER)
        return KEY_SHORT;
    const uint8_t *head = datagram + *len - KEY_TRAILER;
    uint8_t mac[MAC];
    crypto_blake2b_keyed(mac, MAC, key->bytes, KEY_BYTES, datagram, *len - MAC);
    if (crypto_verify16(mac, head + HEAD) || head[0] != VERSION || head[1])
        return KEY_BAD;
    if ((head[2] << 8 | head[3]) == key->mep)
        return KEY_OWN;
    uint64_t counter = 0;
    for (unsigned i = 0; i < 8; i++)
        counter = counter << 8 | head[4 + i];
    if (!is_new(key, counter))
        return KEY_REPLAYED;
    *len -= KEY_TRAILER;
    return KEY_GOOD;
}
