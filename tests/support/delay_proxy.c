/* A TCP proxy between two ports of one address that adds a delay each way, and no limit to the bandwidth: a round trip of
 * 2 x DELAY_US.
 *
 *   delay_proxy ADDRESS LISTEN_PORT TARGET_PORT DELAY_US
 *
 * Per connection and direction, one thread takes bytes and notes when they came, another passes them on when their time
 * has come. Ends with its process; a connection that ends is shut down on the other side.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PARTS_MAX = 1024, PART_BYTES = 256 << 10 };

struct part {
    struct timespec due;
    size_t length;
    char *bytes;
};

struct direction {
    int from, to;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned long taken, passed;
    struct part parts[PARTS_MAX];
};

static long delay_ns;

static void put(struct direction *direction, char *bytes, size_t length)
{
    struct part part = {.length = length, .bytes = bytes};
    clock_gettime(CLOCK_MONOTONIC, &part.due);
    part.due.tv_nsec += delay_ns;
    part.due.tv_sec += part.due.tv_nsec / 1000000000;
    part.due.tv_nsec %= 1000000000;
    pthread_mutex_lock(&direction->lock);
    while (direction->taken - direction->passed == PARTS_MAX)
        pthread_cond_wait(&direction->changed, &direction->lock);
    direction->parts[direction->taken++ % PARTS_MAX] = part;
    pthread_cond_broadcast(&direction->changed);
    pthread_mutex_unlock(&direction->lock);
}

static void *take(void *argument)
{
    struct direction *direction = argument;
    ssize_t length;
    do {
        char *bytes = malloc(PART_BYTES);
        length = bytes ? read(direction->from, bytes, PART_BYTES) : -1;
        put(direction, bytes, length > 0 ? (size_t)length : 0);
    } while (length > 0);
    return NULL;
}

static int pass_on(int to, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t count = send(to, bytes, length, MSG_NOSIGNAL);
        if (count <= 0)
            return -1;
        bytes += count;
        length -= (size_t)count;
    }
    return 0;
}

static void *give(void *argument)
{
    struct direction *direction = argument;
    size_t length;
    do {
        pthread_mutex_lock(&direction->lock);
        while (direction->taken == direction->passed)
            pthread_cond_wait(&direction->changed, &direction->lock);
        struct part part = direction->parts[direction->passed % PARTS_MAX];
        pthread_mutex_unlock(&direction->lock);
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &part.due, NULL) == EINTR)
            ;
        length = part.length;
        if (pass_on(direction->to, part.bytes, length) < 0)
            shutdown(direction->from, SHUT_RD);
        free(part.bytes);
        pthread_mutex_lock(&direction->lock);
        direction->passed++;
        pthread_cond_broadcast(&direction->changed);
        pthread_mutex_unlock(&direction->lock);
    } while (length > 0);
    shutdown(direction->to, SHUT_WR);
    return NULL;
}

static void start(int from, int to)
{
    struct direction *direction = calloc(1, sizeof *direction);
    pthread_t thread;
    direction->from = from;
    direction->to = to;
    pthread_mutex_init(&direction->lock, NULL);
    pthread_cond_init(&direction->changed, NULL);
    pthread_create(&thread, NULL, take, direction);
    pthread_detach(thread);
    pthread_create(&thread, NULL, give, direction);
    pthread_detach(thread);
}

int main(int count, char **arguments)
{
    int yes = 1;
    if (count != 5) {
        fprintf(stderr, "usage: delay_proxy ADDRESS LISTEN_PORT TARGET_PORT DELAY_US\n");
        return 2;
    }
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2])), .sin_addr.s_addr = inet_addr(arguments[1])};
    struct sockaddr_in there = here;
    there.sin_port = htons(atoi(arguments[3]));
    delay_ns = atol(arguments[4]) * 1000;
    prctl(PR_SET_TIMERSLACK, 1000L); /* the delay is half a millisecond: the usual slack of 50 us is a tenth of it */
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 64) < 0) {
        perror("listen");
        return 1;
    }
    for (;;) {
        int client = accept(listener, NULL, NULL), server = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || connect(server, (struct sockaddr *)&there, sizeof there) < 0) {
            close(client);
            close(server);
            continue;
        }
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        start(client, server);
        start(server, client);
    }
}
