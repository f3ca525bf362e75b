/* Sends recorded HTTP/1.1 requests and measures how long the answers take.
 *
 *   load ADDRESS PORT REQUESTS CONNECTIONS RATE SECONDS
 *
 * RATE 0: closed loop, each connection sends its next request when it has its answer. Otherwise an open loop: requests become
 * due by the clock, and a latency begins when its request was due, sent or not (no coordinated omission). REQUESTS: u32 length
 * and bytes of each, little endian, sent in turn. Prints one line of JSON: sent, ok, failed, seconds, p50_ms,
 * p99_ms, longest_ms.
 * Failed are answers other than 200, broken connections, and what is unanswered GRACE_S after the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, MAX_REQUESTS = 4096, EVENTS = 256, IN_BYTES = 1 << 18, GRACE_S = 5 };

typedef struct { char *data; uint32_t size; } Text;

typedef struct {
    int fd, busy, chunked, in_head, ok;
    double due;
    const Text *request;
    uint32_t sent;
    long left;                      /* of the body or the chunk; -1: its size comes next */
    size_t size;
    char in[IN_BYTES + 1];
} Client;

static Client *clients;
static Text texts[MAX_REQUESTS];
static struct sockaddr_in server;
static int epoll, count_texts, count_clients, *idle, count_idle;
static long next_text, sent, ok, failed, count_latencies;
static double *latencies;

static void fail(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    for (uint32_t size; count_texts < MAX_REQUESTS && fread(&size, 4, 1, file) == 1; count_texts++) {
        texts[count_texts] = (Text){malloc(size), size};
        if (fread(texts[count_texts].data, 1, size, file) != size) fail(path);
    }
    fclose(file);
    if (!count_texts) { fprintf(stderr, "%s: no request\n", path); exit(1); }
}

static void dial(Client *client) {
    int one = 1;
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client->fd, (void *)&server, sizeof server)) fail("connect");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event)) fail("epoll");
    client->size = 0;
}

static void rest(Client *client) {
    client->busy = 0;
    idle[count_idle++] = client - clients;
}

static void settle(Client *client, int good, double at) {
    if (good) {
        ok++;
        if (count_latencies % 65536 == 0) latencies = realloc(latencies, (count_latencies + 65536) * sizeof *latencies);
        latencies[count_latencies++] = at - client->due;
    } else {
        failed++;
    }
    rest(client);
}

static void redial(Client *client) {
    close(client->fd);
    dial(client);
    if (client->busy) settle(client, 0, 0);
}

static void push(Client *client) {
    while (client->busy && client->sent < client->request->size) {
        ssize_t size = send(client->fd, client->request->data + client->sent, client->request->size - client->sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) return;
        if (size < 0) { redial(client); return; }
        client->sent += size;
    }
}

static void ask(Client *client, double due) {
    client->busy = client->in_head = 1;
    client->due = due;
    client->request = &texts[next_text++ % count_texts];
    client->sent = 0;
    sent++;
    push(client);
}

/* Read the head of the answer; return what it takes, 0 if it is not all there, -1 if it is none. */
static long read_head(Client *client) {
    client->in[client->size] = 0;
    char *end = memmem(client->in, client->size, "\r\n\r\n", 4);
    if (!end) return 0;
    end[2] = 0;
    char *length = strcasestr(client->in, "\r\ncontent-length:");
    client->chunked = strcasestr(client->in, "\r\ntransfer-encoding: chunked") != NULL;
    client->ok = !strncmp(client->in, "HTTP/1.1 200", 12);
    client->left = client->chunked ? -1 : length ? atol(length + 17) : 0;
    client->in_head = 0;
    return strncmp(client->in, "HTTP/1.1 ", 9) ? -1 : end - client->in + 4;
}

/* Take what was read; return 1 once the answer is complete, -1 if it makes no sense. */
static int take(Client *client) {
    size_t at = 0;
    int done = 0;
    if (client->in_head) {
        long head = read_head(client);
        if (head <= 0) return head;
        at = head;
    }
    for (;;) {
        if (client->left > 0) {
            size_t size = client->size - at < (size_t)client->left ? client->size - at : (size_t)client->left;
            client->left -= size;
            at += size;
            if (client->left) break;
            if (client->chunked) client->left = -1;
        }
        if (!client->chunked) { done = 1; break; }
        char *line = memmem(client->in + at, client->size - at, "\r\n", 2);
        if (!line) break;
        long size = strtol(client->in + at, NULL, 16);
        size_t after = line - client->in + 2;
        if (!size) {
            if (client->size - after < 2) break;
            at = after + 2;
            done = 1;
            break;
        }
        client->left = size + 2;  /* with the end of line behind it */
        at = after;
    }
    client->size -= at;
    memmove(client->in, client->in + at, client->size);
    return done;
}

static void receive(Client *client) {
    for (;;) {
        ssize_t size = recv(client->fd, client->in + client->size, IN_BYTES - client->size, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) { redial(client); return; }
        client->size += size;
        int done = client->busy ? take(client) : -1;
        if (done < 0) { redial(client); return; }
        if (done) settle(client, client->ok, now());
    }
}

static int compare(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static double percentile_ms(double part) {
    return count_latencies ? latencies[(long)(part * (count_latencies - 1))] * 1e3 : 0;
}

int main(int count, char **words) {
    if (count != 7) return fprintf(stderr, "usage: load ADDRESS PORT REQUESTS CONNECTIONS RATE SECONDS\n"), 2;
    server = (struct sockaddr_in){AF_INET, htons(atoi(words[2])), {inet_addr(words[1])}, {0}};
    read_requests(words[3]);
    count_clients = atoi(words[4]);
    double rate = atof(words[5]), seconds = atof(words[6]);
    if (count_clients < 1 || count_clients > MAX_CONNECTIONS) return fprintf(stderr, "1 to %d connections\n", MAX_CONNECTIONS), 2;
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    clients = calloc(count_clients, sizeof *clients);
    idle = malloc(count_clients * sizeof *idle);
    for (int at = 0; at < count_clients; at++) {
        dial(&clients[at]);
        rest(&clients[at]);
    }
    double begin = now(), stop = begin + seconds;
    long due = 0, wanted = rate > 0 ? (long)(rate * seconds) : 0;
    struct epoll_event events[EVENTS];
    for (double time = begin; time < stop + GRACE_S; time = now()) {
        for (int spare = count_idle; spare && (wanted ? due < wanted && begin + due / rate <= time : time < stop); spare--)
            ask(&clients[idle[--count_idle]], wanted ? begin + due++ / rate : time);
        if (time >= stop && due >= wanted && count_idle == count_clients) break;
        double next = due < wanted && count_idle ? begin + due / rate : time + 0.05;  /* far below a second */
        double wait = next > time ? next - time : 0;
        int ready = epoll_pwait2(epoll, events, EVENTS, &(struct timespec){0, (long)(wait * 1e9)}, NULL);
        for (int at = 0; at < ready; at++) {
            Client *client = events[at].data.ptr;
            if (events[at].events & EPOLLOUT) push(client);
            if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(client);
        }
    }
    failed += count_clients - count_idle + (wanted - due);
    qsort(latencies, count_latencies, sizeof *latencies, compare);
    printf("{\"sent\": %ld, \"ok\": %ld, \"failed\": %ld, \"seconds\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"longest_ms\": %.3f}\n", sent, ok, failed, seconds, percentile_ms(0.5), percentile_ms(0.99), percentile_ms(1));
    return 0;
}
