/* Send frames of as many bytes as the second argument says to the interface in the first. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, TYPE = 0x88b5 }; /* IEEE 802 §9.2.3 */

int main(int argc, char **argv)
{
    static char frame[ETH_FRAME_LEN];
    struct iovec part = {frame, argc > 2 ? strtoul(argv[2], NULL, 10) : 0};
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(argv[1])};
    struct mmsghdr batch[BATCH] = {0};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    if (fd < 0 || part.iov_len < ETH_ZLEN || part.iov_len > sizeof(frame) ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        return 1;
    memset(frame, 0xff, 2 * ETH_ALEN);
    memcpy(frame + 2 * ETH_ALEN, &(uint16_t){htons(TYPE)}, 2);
    for (int i = 0; i < BATCH; i++)
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    for (;;)
        sendmmsg(fd, batch, BATCH, 0);
}
