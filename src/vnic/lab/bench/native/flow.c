/* A TCP connection's rate, as a guest sees it: `flow send|receive ADDRESS PORT SECONDS` prints the bytes and the ns.
 *
 * `vnic bench wire-guest` compiles this file and runs it in its guests. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1u << 17)

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
    static uint8_t chunk[CHUNK];
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (argc != 5 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
        return 2;
    address.sin_port = htons((uint16_t)atoi(argv[3]));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("connect");
        return 1;
    }
    uint64_t bytes = 0, began = now_ns(), end = began + (uint64_t)(atof(argv[4]) * 1e9);
    ssize_t part = 0;
    if (!strcmp(argv[1], "send")) {
        while (now_ns() < end && (part = send(fd, chunk, CHUNK, MSG_NOSIGNAL)) > 0)
            bytes += (uint64_t)part;
        shutdown(fd, SHUT_WR);
        if (part >= 0)
            part = recv(fd, chunk, CHUNK, 0); /* the other side closes when it has all */
    } else {
        while ((part = recv(fd, chunk, CHUNK, 0)) > 0)
            bytes += (uint64_t)part;
    }
    if (part < 0) {
        perror(argv[1]);
        return 1;
    }
    printf("%llu %llu\n", (unsigned long long)bytes, (unsigned long long)(now_ns() - began));
    return 0;
}
