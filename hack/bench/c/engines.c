/* Model servers that cost next to nothing: COUNT of them in one process, on 127.0.0.2 and up.
 *
 *   engines COUNT PORT PAGE PAGE.gz ANSWER CHUNK LAST_CHUNK CHUNKS INTERVAL_MS
 *
 * POST: the file ANSWER, or, if the body asks for a stream, CHUNKS times the file CHUNK and then LAST_CHUNK, INTERVAL_MS apart
 * (each stream on a beat of its own). GET /metrics: a recorded page, gzipped for whoever accepts that, as vLLM does.
 * GET /tally: {"scrapes", "zipped", "requests"} since the start. GET /v1/models, /health: what routers want to see first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_FDS = 60000, EVENTS = 256, READ_BYTES = 65536 };

typedef struct { char *data; size_t size; } Text;

typedef struct Client {
    char *in;
    size_t size, room;
    int left;                    /* messages of the stream still to come */
    int next, previous, beat;    /* the others on the same beat, by descriptor */
} Client;

static Client clients[MAX_FDS];
static char listening[MAX_FDS];
static Text page, zipped_page, answer, chunk, last_chunk, models, healthy, missing;
static int chunks, interval_ms, *beats, beat;
static long scrapes, zipped, requests;

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

static void fail(const char *what) { perror(what); exit(1); }

static Text read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    Text text = {malloc(1 << 22), 0};
    text.size = fread(text.data, 1, 1 << 22, file);
    fclose(file);
    return text;
}

static Text response(const char *status, const char *fields, Text body) {
    Text made = {malloc(body.size + 512), 0};
    made.size = sprintf(made.data, "HTTP/1.1 %s\r\nserver: uvicorn\r\n%scontent-length: %zu\r\n\r\n", status, fields, body.size);
    memcpy(made.data + made.size, body.data, body.size);
    made.size += body.size;
    return made;
}

static Text literal(const char *text) { return (Text){(char *)text, strlen(text)}; }

static Text chunked(Text body, const char *end) {
    Text made = {malloc(body.size + 64), 0};
    made.size = sprintf(made.data, "%zx\r\n", body.size);
    memcpy(made.data + made.size, body.data, body.size);
    made.size += body.size;
    made.size += sprintf(made.data + made.size, "\r\n%s", end);
    return made;
}

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = write(fd, data, size);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {fd, POLLOUT, 0};
            if (poll(&writable, 1, 1000) <= 0) return;
        } else if (sent < 0) {
            return;
        } else {
            data += sent;
            size -= sent;
        }
    }
}

static void send_text(int fd, Text text) { send_all(fd, text.data, text.size); }

static void leave_beat(int fd) {
    Client *client = &clients[fd];
    if (!client->left) return;
    client->left = 0;
    if (client->previous >= 0) clients[client->previous].next = client->next;
    else beats[client->beat] = client->next;
    if (client->next >= 0) clients[client->next].previous = client->previous;
}

static void stream(int fd) {
    Client *client = &clients[fd];
    send_all(fd, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    if (!interval_ms) {
        for (int at = 0; at < chunks; at++) send_text(fd, chunk);
        send_text(fd, last_chunk);
        return;
    }
    client->left = chunks + 1;
    client->beat = beat;
    client->previous = -1;
    client->next = beats[beat];
    if (client->next >= 0) clients[client->next].previous = fd;
    beats[beat] = fd;
}

static void tick(void) {
    beat = (beat + 1) % interval_ms;
    for (int fd = beats[beat]; fd >= 0;) {
        int next = clients[fd].next;
        if (clients[fd].left == 1) {
            leave_beat(fd);
            send_text(fd, last_chunk);
        } else {
            clients[fd].left--;
            send_text(fd, chunk);
        }
        fd = next;
    }
}

static void answer_get(int fd, const char *path, int takes_gzip) {
    if (!strncmp(path, "/metrics", 8)) {
        scrapes++;
        zipped += takes_gzip;
        send_text(fd, takes_gzip ? zipped_page : page);
    } else if (!strncmp(path, "/tally", 6)) {
        char counts[128];
        sprintf(counts, "{\"scrapes\": %ld, \"zipped\": %ld, \"requests\": %ld}", scrapes, zipped, requests);
        Text made = response("200 OK", "content-type: application/json\r\n", literal(counts));
        send_text(fd, made);
        free(made.data);
    } else {
        send_text(fd, !strncmp(path, "/v1/models", 10) ? models : !strncmp(path, "/health", 7) ? healthy : missing);
    }
}

static void hang_up(int fd) {
    leave_beat(fd);
    clients[fd].size = 0;
    close(fd);
}

/* Return where the request at the head of the buffer ends, or 0 if it is not all there. */
static size_t request_end(Client *client, size_t head) {
    char *length = strcasestr(client->in, "\r\ncontent-length:");
    if (length) return head + strtoul(length + 17, NULL, 10);
    if (!strcasestr(client->in, "\r\ntransfer-encoding: chunked")) return head;
    for (size_t at = head;;) {
        char *line = memmem(client->in + at, client->size - at, "\r\n", 2);
        if (!line) return 0;
        size_t size = strtoul(client->in + at, NULL, 16);
        at = line - client->in + 2 + size + 2;
        if (at > client->size) return 0;
        if (!size) return at;
    }
}

static void answer_requests(int fd) {
    Client *client = &clients[fd];
    while (client->size) {
        client->in[client->size] = 0;
        char *end = memmem(client->in, client->size, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end - client->in + 4;
        end[2] = 0;  /* what is searched for in headers must not be found in bodies */
        size_t total = request_end(client, head);
        int takes_gzip = strcasestr(client->in, "\r\naccept-encoding:") && strcasestr(client->in, "gzip");
        end[2] = '\r';
        if (!total || total > client->size) return;
        char *path = strchr(client->in, ' ');
        if (!path++ || !memcmp(client->in, "PRI ", 4)) { hang_up(fd); return; }  /* HTTP/2: gRPC is not spoken here */
        if (!memcmp(client->in, "POST ", 5)) {
            size_t path_bytes = strcspn(path, " ?");
            int completions = path_bytes >= 11 && !memcmp(path + path_bytes - 11, "completions", 11);
            requests += completions;
            if (!completions) send_text(fd, missing);
            else if (chunks && memmem(client->in + head, total - head, "\"stream\":true", 13)) stream(fd);
            else send_text(fd, answer);
        } else {
            answer_get(fd, path, takes_gzip);
        }
        client->size -= total;
        memmove(client->in, client->in + total, client->size);
    }
}

static void receive(int fd) {
    Client *client = &clients[fd];
    for (;;) {
        if (client->room < client->size + READ_BYTES) {
            client->room = client->room ? client->room * 2 : 2 * READ_BYTES;
            client->in = realloc(client->in, client->room + 1);
            if (!client->in) fail("memory");
        }
        ssize_t size = read(fd, client->in + client->size, client->room - client->size);
        if (size < 0 && errno == EAGAIN) break;
        if (size <= 0) { hang_up(fd); return; }
        client->size += size;
    }
    answer_requests(fd);
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll");
}

static void welcome(int epoll, int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int one = 1, buffer = 1 << 19;
        if (fd >= MAX_FDS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        clients[fd].size = clients[fd].left = 0;
        watch(epoll, fd);
    }
}

static void listen_on(int epoll, int at, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(0x7F000002 + at)}, {0}};
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1024)) fail("listen");
    listening[fd] = 1;
    watch(epoll, fd);
}

int main(int count, char **words) {
    if (count != 10) return fprintf(stderr, "usage: see the head of engines.c\n"), 2;
    page = response("200 OK", "content-type: text/plain; version=0.0.4; charset=utf-8\r\n", read_file(words[3]));
    zipped_page = response("200 OK", "content-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-encoding: gzip\r\n",
                           read_file(words[4]));
    answer = response("200 OK", "content-type: application/json\r\n", read_file(words[5]));
    models = response("200 OK", "content-type: application/json\r\n",
                      literal("{\"object\":\"list\",\"data\":[{\"id\":\"lab/llama-3-8b\",\"object\":\"model\",\"owned_by\":\"bench\"}]}"));
    healthy = response("200 OK", "", literal(""));
    missing = response("404 Not Found", "content-type: application/json\r\n", literal("{\"detail\":\"Not Found\"}"));
    chunk = chunked(read_file(words[6]), "");
    last_chunk = chunked(read_file(words[7]), "0\r\n\r\n");
    chunks = atoi(words[8]);
    interval_ms = atoi(words[9]);
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){MAX_FDS, MAX_FDS});
    int epoll = epoll_create1(0), timer = -1;
    for (int at = 0; at < atoi(words[1]); at++) listen_on(epoll, at, atoi(words[2]));
    if (interval_ms) {
        beats = malloc(interval_ms * sizeof *beats);
        memset(beats, 0xFF, interval_ms * sizeof *beats);
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        timerfd_settime(timer, 0, &(struct itimerspec){{0, 1000000}, {0, 1000000}}, NULL);
        watch(epoll, timer);
    }
    for (struct epoll_event events[EVENTS];;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            int fd = events[at].data.fd;
            if (listening[fd]) {
                welcome(epoll, fd);
            } else if (fd == timer) {
                unsigned long ticks = 0;
                if (read(timer, &ticks, sizeof ticks) < 0) continue;
                while (ticks--) tick();
            } else {
                receive(fd);
            }
        }
    }
}
