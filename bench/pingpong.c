/*
 * Requests and responses of one byte, over TCP or UDP.
 *     pingpong tcp|udp PORT                   answers for ever
 *     pingpong tcp|udp PORT ADDRESS COUNT     prints the microseconds that one round trip took
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { LOST_S = 10 };

static void answer(int fd)
{
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    char byte;
    while (recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&from, &size) == 1)
        if (sendto(fd, &byte, 1, 0, size ? (struct sockaddr *)&from : NULL, size) != 1)
            return;
}

static void serve(int fd, const struct sockaddr_in *address, int type)
{
    if (bind(fd, (const struct sockaddr *)address, sizeof *address))
        err(1, "bind");
    if (type == SOCK_DGRAM)
        answer(fd);
    if (listen(fd, 1))
        err(1, "listen");
    for (;;) {
        int connection = accept(fd, NULL, NULL);
        int on = 1;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        answer(connection);
        close(connection);
    }
}

static void ask(int fd, int count)
{
    char byte = 0;
    for (int done = 0; done < count; done++)
        if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1)
            err(1, "round trip %d of %d", done, count);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 5)
        errx(2, "Usage: pingpong tcp|udp PORT [ADDRESS COUNT]");
    int type = strcmp(argv[1], "udp") ? SOCK_STREAM : SOCK_DGRAM;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    int fd = socket(AF_INET, type, 0);
    if (argc == 3)
        serve(fd, &address, type);
    struct timeval patience = {.tv_sec = LOST_S};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (type == SOCK_STREAM)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    inet_pton(AF_INET, argv[3], &address.sin_addr);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        err(1, "connect");
    int count = atoi(argv[4]);
    ask(fd, count / 10); /* so that neighbours are known and caches warm */
    double begin = seconds();
    ask(fd, count);
    printf("%.2f\n", (seconds() - begin) * 1e6 / count);
}
