/* The control channel: control's requests, their replies, and events to control. main.c starts it. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include <stdint.h>

/* Serve control at this SEQPACKET socket. `sandbox` is what sandbox_confine granted. 0 or an errno. The process ends
 * when control closes the socket. */
int channel_start(int fd, uint32_t sandbox);

#endif
