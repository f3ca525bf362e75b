/* Plays Envoy to a picker: recorded ext_proc streams over HTTP/2, many at once, again and again.
 *
 *   replay PORTS STREAMS AT_ONCE SECONDS
 *
 * PORTS: one or more, with commas between; a connection to each, AT_ONCE streams on it. STREAMS: what streams.py writes. A step
 * is sent in one go; the next one follows when the reply has come that ends the step. Every stream ends by RST_STREAM, as with
 * Envoy. Prints one line of JSON: done, failed, seconds, and of the time to the pick p50_ms, p99_ms and longest_ms.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE };
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4, INTERNAL_ERROR = 2, INITIAL_WINDOW_SIZE = 4 };
enum { MAX_PORTS = 16, MAX_RECORDINGS = 1024, SLOTS = 1 << 16, FRAME_BYTES = 16384, IN_BYTES = 1 << 20 };
enum { FIRST_WINDOW = 65535, STREAM_WINDOW = 1 << 24, CONNECTION_WINDOW = 1 << 28, REPLENISH = 1 << 20, REQUEST_BODY_REPLY = 0x1A };

typedef struct { uint8_t reply, final; uint32_t count, *ends; uint8_t *data; } Step;
typedef struct { uint32_t count; Step *steps; } Recording;

typedef struct Stream {
    uint32_t id, step, sent;
    const Recording *recording;
    long window, received;
    double begin;
    int picked, unread, prefix;     /* unread: bytes of the message; prefix: bytes of its head that are there */
    uint8_t head[5], kind, last[2];
} Stream;

typedef struct {
    int fd;
    uint32_t next_id;
    long window, initial_window, received;
    Stream *streams[SLOTS];
    uint8_t *out, *in;
    size_t out_size, out_room, in_size;
    int unseen;                     /* something was read while we wrote */
} Connection;

static Recording recordings[MAX_RECORDINGS];
static uint32_t count_recordings, first_size, block_size;
static uint8_t *first_block, *block;
static long turn, done, failed, count_latencies;
static double *latencies, stop;

static void fail(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void read_exactly(FILE *file, void *data, size_t size) {
    if (size && fread(data, size, 1, file) != 1) { fprintf(stderr, "the recording is cut off\n"); exit(1); }
}

static uint32_t read_u32(FILE *file) {
    uint32_t value;
    read_exactly(file, &value, 4);
    return value;
}

static void read_step(FILE *file, Step *step) {
    read_exactly(file, &step->reply, 1);
    read_exactly(file, &step->final, 1);
    step->count = read_u32(file);
    step->ends = malloc(step->count * sizeof *step->ends);
    step->data = NULL;
    for (uint32_t at = 0, end = 0; at < step->count; at++) {
        uint32_t size = read_u32(file);
        step->data = realloc(step->data, end + size);
        read_exactly(file, step->data + end, size);
        step->ends[at] = end += size;
    }
}

static void read_recordings(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    first_size = read_u32(file);
    read_exactly(file, first_block = malloc(first_size), first_size);
    block_size = read_u32(file);
    read_exactly(file, block = malloc(block_size), block_size);
    count_recordings = read_u32(file);
    if (!count_recordings || count_recordings > MAX_RECORDINGS) { fprintf(stderr, "1 to %d streams\n", MAX_RECORDINGS); exit(1); }
    for (uint32_t at = 0; at < count_recordings; at++) {
        Recording *recording = &recordings[at];
        recording->steps = calloc(recording->count = read_u32(file), sizeof(Step));
        for (uint32_t step = 0; step < recording->count; step++) read_step(file, &recording->steps[step]);
    }
    fclose(file);
}

static void put(Connection *connection, const void *data, size_t size) {
    if (connection->out_size + size > connection->out_room)
        connection->out = realloc(connection->out, connection->out_room = 2 * (connection->out_size + size));
    memcpy(connection->out + connection->out_size, data, size);
    connection->out_size += size;
}

static void put_frame(Connection *connection, int kind, int flags, uint32_t id, const void *data, uint32_t size) {
    uint8_t head[9] = {size >> 16, size >> 8, size, kind, flags, id >> 24, id >> 16, id >> 8, id};
    put(connection, head, 9);
    put(connection, data, size);
}

static void put_u32_frame(Connection *connection, int kind, uint32_t id, uint32_t value) {
    uint8_t data[4] = {value >> 24, value >> 16, value >> 8, value};
    put_frame(connection, kind, 0, id, data, 4);
}

static void flush(Connection *connection) {
    for (size_t at = 0; at < connection->out_size;) {
        ssize_t size = write(connection->fd, connection->out + at, connection->out_size - at);
        if (size < 0 && errno != EAGAIN) fail("write");
        if (size < 0) {
            struct pollfd both = {connection->fd, POLLIN | POLLOUT, 0};
            poll(&both, 1, 1000);
            if (both.revents & POLLIN) {  /* the picker may wait for us to read before it reads on */
                ssize_t more = read(connection->fd, connection->in + connection->in_size, IN_BYTES - connection->in_size);
                if (more > 0) connection->in_size += more;
                connection->unseen = 1;
            }
        } else {
            at += size;
        }
    }
    connection->out_size = 0;
}

/* Send of the step what the windows let through, in frames that end where messages end. */
static void send_step(Connection *connection, Stream *stream) {
    const Step *step = &stream->recording->steps[stream->step];
    for (uint32_t at = 0; at < step->count; at++) {
        while (stream->sent < step->ends[at]) {
            long size = step->ends[at] - stream->sent;
            if (size > FRAME_BYTES) size = FRAME_BYTES;
            if (size > connection->window) size = connection->window;
            if (size > stream->window) size = stream->window;
            if (size <= 0) return;
            put_frame(connection, DATA, 0, stream->id, step->data + stream->sent, size);
            stream->sent += size;
            connection->window -= size;
            stream->window -= size;
        }
    }
}

static void open_stream(Connection *connection) {
    Stream *stream = calloc(1, sizeof *stream);
    int first = connection->next_id == 1;
    stream->id = connection->next_id;
    connection->next_id += 2;
    stream->recording = &recordings[turn++ % count_recordings];
    stream->window = connection->initial_window;
    stream->begin = now();
    connection->streams[stream->id / 2 % SLOTS] = stream;
    put_frame(connection, HEADERS, END_HEADERS, stream->id, first ? first_block : block, first ? first_size : block_size);
    send_step(connection, stream);
}

static Stream *find(Connection *connection, uint32_t id) {
    Stream *stream = connection->streams[id / 2 % SLOTS];
    return stream && stream->id == id ? stream : NULL;
}

static void end_stream(Connection *connection, Stream *stream, int good) {
    connection->streams[stream->id / 2 % SLOTS] = NULL;
    if (good) put_u32_frame(connection, RST_STREAM, stream->id, INTERNAL_ERROR);  /* Envoy's word for "done" */
    good ? done++ : failed++;
    free(stream);
    if (now() < stop) open_stream(connection);
}

/* A reply is complete. Return 0 if the stream is gone. */
static int take_reply(Connection *connection, Stream *stream) {
    const Step *step = &stream->recording->steps[stream->step];
    int end_of_body = stream->last[0] == 0x10 && stream->last[1] == 1;  /* end_of_stream, the last field there is */
    if (stream->kind != step->reply || (step->final && !end_of_body)) return 1;
    if (!stream->picked && stream->kind == REQUEST_BODY_REPLY) {
        stream->picked = 1;
        if (count_latencies % 65536 == 0) latencies = realloc(latencies, (count_latencies + 65536) * sizeof *latencies);
        latencies[count_latencies++] = now() - stream->begin;
    }
    if (++stream->step == stream->recording->count) {
        end_stream(connection, stream, 1);
        return 0;
    }
    stream->sent = 0;
    send_step(connection, stream);
    return 1;
}

static void take_data(Connection *connection, Stream *stream, const uint8_t *data, size_t size) {
    stream->received += size;
    while (size) {
        if (!stream->unread) {
            stream->head[stream->prefix++] = *data++;
            size--;
            if (stream->prefix < 5) continue;
            stream->unread = stream->head[1] << 24 | stream->head[2] << 16 | stream->head[3] << 8 | stream->head[4];
            stream->kind = 0;
            stream->prefix = stream->unread ? 5 : 0;
            continue;
        }
        if (!stream->kind) stream->kind = *data;
        size_t part = size < (size_t)stream->unread ? size : (size_t)stream->unread;
        if (part > 1) stream->last[0] = data[part - 2];
        else stream->last[0] = stream->last[1];
        stream->last[1] = data[part - 1];
        data += part;
        size -= part;
        stream->unread -= part;
        if (stream->unread) continue;
        stream->prefix = 0;
        if (!take_reply(connection, stream)) return;
    }
    if (stream->received > REPLENISH) {
        put_u32_frame(connection, WINDOW_UPDATE, stream->id, stream->received);
        stream->received = 0;
    }
}

static void resend(Connection *connection) {
    for (int at = 0; at < SLOTS; at++)
        if (connection->streams[at]) send_step(connection, connection->streams[at]);
}

static void take_settings(Connection *connection, const uint8_t *data, size_t size) {
    for (size_t at = 0; at + 6 <= size; at += 6) {
        if ((data[at] << 8 | data[at + 1]) != INITIAL_WINDOW_SIZE) continue;
        long value = (long)data[at + 2] << 24 | data[at + 3] << 16 | data[at + 4] << 8 | data[at + 5];
        for (int slot = 0; slot < SLOTS; slot++)
            if (connection->streams[slot]) connection->streams[slot]->window += value - connection->initial_window;
        connection->initial_window = value;
    }
    put_frame(connection, SETTINGS, ACK, 0, NULL, 0);
    resend(connection);
}

static void take_window(Connection *connection, Stream *stream, uint32_t id, const uint8_t *data) {
    long increment = (long)(data[0] & 0x7F) << 24 | data[1] << 16 | data[2] << 8 | data[3];
    if (!id) {
        int waiting = connection->window <= 0;
        connection->window += increment;
        if (waiting) resend(connection);
    } else if (stream) {
        stream->window += increment;
        send_step(connection, stream);
    }
}

static void take_frame(Connection *connection, const uint8_t *head, uint32_t size) {
    const uint8_t *data = head + 9;
    int kind = head[3], flags = head[4];
    uint32_t id = (head[5] & 0x7Fu) << 24 | head[6] << 16 | head[7] << 8 | head[8];
    Stream *stream = find(connection, id);
    if (kind == DATA) {
        connection->received += size;
        if (stream) take_data(connection, stream, data, size);
    } else if (kind == SETTINGS && !(flags & ACK)) {
        take_settings(connection, data, size);
    } else if (kind == PING && !(flags & ACK)) {
        put_frame(connection, PING, ACK, 0, data, size);
    } else if (kind == WINDOW_UPDATE) {
        take_window(connection, stream, id, data);
    } else if (kind == GOAWAY) {
        fprintf(stderr, "the picker says GOAWAY: %.*s\n", size > 8 ? (int)size - 8 : 0, data + 8);
        exit(1);
    }
    if ((kind == RST_STREAM || ((kind == DATA || kind == HEADERS) && flags & END_STREAM)) && (stream = find(connection, id)))
        end_stream(connection, stream, 0);
}

static void take_frames(Connection *connection) {
    size_t at = 0;
    while (connection->in_size - at >= 9) {
        const uint8_t *head = connection->in + at;
        uint32_t length = head[0] << 16 | head[1] << 8 | head[2];
        if (connection->in_size - at < 9 + length) break;
        take_frame(connection, head, length);
        at += 9 + length;
    }
    connection->in_size -= at;
    memmove(connection->in, connection->in + at, connection->in_size);
    if (connection->received > REPLENISH) {
        put_u32_frame(connection, WINDOW_UPDATE, 0, connection->received);
        connection->received = 0;
    }
}

static void receive(Connection *connection) {
    ssize_t size = read(connection->fd, connection->in + connection->in_size, IN_BYTES - connection->in_size);
    if (size < 0 && errno != EAGAIN) fail("read");
    if (!size) { fprintf(stderr, "the picker hung up\n"); exit(1); }
    if (size > 0) connection->in_size += size;
    do {
        take_frames(connection);
        connection->unseen = 0;
        flush(connection);
    } while (connection->unseen);
}

static Connection *dial(int port) {
    Connection *connection = calloc(1, sizeof *connection);
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    int one = 1;
    uint8_t ours[6] = {0, INITIAL_WINDOW_SIZE, STREAM_WINDOW >> 24, 0, 0, 0};
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->fd, (void *)&address, sizeof address)) fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->in = malloc(IN_BYTES);
    connection->next_id = 1;
    connection->window = connection->initial_window = FIRST_WINDOW;
    put(connection, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    put_frame(connection, SETTINGS, 0, 0, ours, 6);
    put_u32_frame(connection, WINDOW_UPDATE, 0, CONNECTION_WINDOW);
    flush(connection);
    receive(connection);  /* the picker speaks first, too */
    return connection;
}

static int compare(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static double percentile_ms(double part) {
    return count_latencies ? latencies[(long)(part * (count_latencies - 1))] * 1e3 : 0;
}

int main(int count, char **words) {
    if (count != 5) return fprintf(stderr, "usage: replay PORTS STREAMS AT_ONCE SECONDS\n"), 2;
    Connection *connections[MAX_PORTS];
    struct pollfd readable[MAX_PORTS];
    int count_connections = 0;
    read_recordings(words[2]);
    for (char *port = strtok(words[1], ","); port && count_connections < MAX_PORTS; port = strtok(NULL, ",")) {
        connections[count_connections] = dial(atoi(port));
        readable[count_connections] = (struct pollfd){connections[count_connections]->fd, POLLIN, 0};
        count_connections++;
    }
    double begin = now(), seconds = atof(words[4]);
    stop = begin + seconds;
    for (int at = 0; at < count_connections; at++) {
        fcntl(connections[at]->fd, F_SETFL, O_NONBLOCK);
        for (int stream = 0; stream < atoi(words[3]); stream++) open_stream(connections[at]);
        flush(connections[at]);
        receive(connections[at]);
    }
    while (now() < stop) {
        poll(readable, count_connections, 50);
        for (int at = 0; at < count_connections; at++)
            if (readable[at].revents) receive(connections[at]);
    }
    qsort(latencies, count_latencies, sizeof *latencies, compare);
    printf("{\"done\": %ld, \"failed\": %ld, \"seconds\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"longest_ms\": %.3f}\n", done,
           failed, now() - begin, percentile_ms(0.5), percentile_ms(0.99), percentile_ms(1));
    return 0;
}
