/* Pings ADDRESS COUNT times, every INTERVAL ms, and prints each answer as it comes: its number and the time in ms that it
 * took. It runs in the guest, in place of busybox's, whose socket has room for a dozen answers only, and waits for the
 * last ones at most PATIENCE seconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 100000, ROOM = 8 << 20 };

static long long now_us(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static unsigned short checksum(const void *data, size_t bytes) {
	const unsigned short *words = data;
	unsigned int sum = 0;

	for (size_t at = 0; at < bytes / 2; at++)
		sum += words[at];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* In milliseconds for poll, rounded up, and never negative, which would be for ever. */
static int until(long long when_us) {
	long long left = when_us - now_us();

	return left > 0 ? (int)((left + 999) / 1000) : 0;
}

static long long sent_at[MOST];
static unsigned short id;

static void send_one(int sock, int number) {
	struct { struct icmphdr header; unsigned int number; char rest[52]; } packet = {
		.header = { .type = ICMP_ECHO, .un.echo = { .id = id, .sequence = htons(number) } }, .number = number,
	};

	packet.header.checksum = checksum(&packet, sizeof packet);
	sent_at[number] = now_us();
	if (send(sock, &packet, sizeof packet, MSG_DONTWAIT) < 0)
		printf("seq=%d failed: %s\n", number, strerror(errno));
}

/* Returns whether it was an answer to one of ours. */
static int take_one(int sock, int sent) {
	struct { struct iphdr ip; struct icmphdr header; unsigned int number; char rest[1500]; } packet;
	ssize_t bytes = recv(sock, &packet, sizeof packet, MSG_DONTWAIT);

	if (bytes < (ssize_t)(sizeof packet.ip + sizeof packet.header + 4) || packet.ip.ihl != 5)
		return 0;
	if (packet.header.type != ICMP_ECHOREPLY || packet.header.un.echo.id != id || packet.number >= (unsigned)sent)
		return 0;
	printf("seq=%u time=%.1f ms\n", packet.number, (now_us() - sent_at[packet.number]) / 1000.0);
	return 1;
}

int main(int argc, char **argv) {
	struct sockaddr_in far = { .sin_family = AF_INET };
	int room = ROOM, count, sent = 0, answers = 0, sock = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	long long next = now_us(), end = 0;

	if (argc != 5 || !inet_aton(argv[1], &far.sin_addr) || (count = atoi(argv[2])) > MOST)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	id = htons(getpid());
	if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) ||
	    connect(sock, (struct sockaddr *)&far, sizeof far)) {
		perror("pinger");
		return 1;
	}
	while (sent < count || (answers < count && now_us() < end)) {
		struct pollfd ready = { .fd = sock, .events = POLLIN };

		if (sent < count && now_us() >= next) {
			send_one(sock, sent++);
			next += atoi(argv[3]) * 1000LL;
			end = now_us() + atoi(argv[4]) * 1000000LL;
		}
		poll(&ready, 1, sent < count ? until(next) : 100);
		while (take_one(sock, sent))
			answers++;
	}
	printf("%d packets transmitted\n", sent);
	return 0;
}
