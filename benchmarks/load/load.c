/* The load client: many WebSocket connections over TLS 1.3 on one thread, driven by a job on standard input.
 *
 * A job is lines of `key value`; `benchmarks/world.py` writes it:
 *
 *     host 127.0.0.1      address of the server
 *     port 8443
 *     name localhost      what its certificate has to say
 *     ca FILE             whom the certificate has to be signed by
 *     mode MODE           closed | open | idle | connect | fetch
 *     tag WORD            first word of every cmid of this run
 *     seconds 5           length of the measured window
 *     warmup 0.5          seconds of the same load before it
 *     settle 0.8          seconds of silence between the last `ready` and the load
 *     body 200            bytes of a message
 *     rate 200            open: messages per second, all senders together
 *     first 1, last 9     fetch: the pages end before a seq of first … last
 *     parallel 32         connections that are being opened at a time
 *     sealed 0            1: the sealed sub-protocol with P-256, 2: with X25519; 0: the clear one
 *     verify 1            0: take the server's signatures without checking them
 *     pid 123             process of the server: its CPU and memory are read at the ends of the window; several are summed
 *     beside WORD 124     another process, with its children: its CPU is read, too, and told under this word; several are summed
 *     server_core 0       core of the server, and load_core of this client: how busy they are in the window
 *     acked FILE          gets a line `room seq cmid` for each message that was tried; seq 0: no acknowledgement came
 *     sources 100         the connections come from so many addresses, 127.0.1.1 and following ones; 0: from the kernel's choice
 *     storm 1000          open: at the begin of the window the last 1000 connections end at once, and come back
 *     conn TOKEN ROOM N P a connection; it sends to ROOM with N outstanding messages (`-` and 0: it only listens), by way of port P
 *                         (without: the one of the job)
 *
 * closed   a sender sends its next message when one is acknowledged
 * open     messages go out at scheduled times, round robin over the senders; latency counts from the schedule, apart for those who
 *          hear it on another port than it was sent on; those who end in a storm are not counted
 * idle     nothing is sent; the memory of the server before the first connection and at the end is what counts
 * connect  connect, TLS handshake, upgrade, the handshake of the sealed session, `auth`, `ready`, close, again
 * fetch    pages of history; N outstanding requests per connection
 *
 * The result is one JSON object on standard output. A delivery counts when its frame was parsed and its `seq` was the next one
 * of its room on its connection. Latencies are in a histogram with steps of less than 1 %.
 */
#define _GNU_SOURCE
#include "sealed.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { ROOMS = 8, ID = 32, READ = 256 * 1024, PLAIN = 4 * 1024 * 1024, SHOWN = 5, FAULTS_MAX = 1000, BODY_MAX = 16384,
       PIDS = 8, BESIDE = 8,
       RECORD = 32 * 1024, RECORD_MESSAGES = 256 };
enum mode { CLOSED, OPEN, IDLE, CONNECT, FETCH };
enum state { UNUSED, CONNECTING, HANDSHAKE, UPGRADE, SEALING, HELLO, AUTH, READY, CLOSING, DEAD };

static void die(const char *what) {
    fprintf(stderr, "load: %s", what);
    if (errno) fprintf(stderr, ": %s", strerror(errno));
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void *need(void *memory) {
    if (!memory) die("no memory");
    return memory;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ── histogram: 128 steps per power of two ──────────────────────────────────────────────────────────────────────────── */

struct histogram {
    uint64_t steps[64 * 128], count, max;
};

static struct histogram here, elsewhere; /* elsewhere: on another port than the sender's */
static struct histogram added;           /* for each message: the mean of those elsewhere, less that of those here */

static void hist_add(struct histogram *hist, uint64_t ns) {
    unsigned index;
    if (ns < 128) {
        index = (unsigned)ns;
    } else {
        unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 7u;
        index = (shift + 1) * 128 + (unsigned)(ns >> shift) - 128;
    }
    hist->steps[index]++;
    hist->count++;
    if (ns > hist->max) hist->max = ns;
}

static double hist_us(const struct histogram *hist, double share) {
    uint64_t wanted = (uint64_t)(share * (double)hist->count), seen = 0;
    for (unsigned index = 0; index < sizeof hist->steps / sizeof *hist->steps; index++) {
        seen += hist->steps[index];
        if (hist->steps[index] && seen > wanted) { /* the upper end of the step */
            uint64_t value = index;
            if (index >= 128) {
                unsigned shift = index / 128 - 1;
                value = ((uint64_t)(index % 128 + 129) << shift) - 1;
            }
            return (double)(value < hist->max ? value : hist->max) / 1000.0;
        }
    }
    return (double)hist->max / 1000.0;
}

static void hist_print(const char *word, const struct histogram *hist) {
    printf(
        "\"%s\":{\"count\":%llu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f},", word, (unsigned long long)hist->count,
        hist_us(hist, 0.5), hist_us(hist, 0.9), hist_us(hist, 0.99), (double)hist->max / 1000.0);
}

/* ── what is known ──────────────────────────────────────────────────────────────────────────────────────────────────── */

struct span {
    const char *at;
    size_t size;
};

struct seen { /* a room as one connection sees it */
    char id[ID];
    size_t size;
    uint64_t last;
};

struct arrivals { /* of one message, at one port or the others */
    uint64_t sum_ns;
    uint32_t count;
};

struct connection {
    SSL *ssl;
    struct sealed *sealed; /* NULL on the clear sub-protocol; outlives the connection until the next one */
    int fd, index, port;
    enum state state;
    bool want_write, storms;
    const char *token, *room; /* room: where it sends, NULL if it only listens */
    unsigned outstanding;     /* how many it may have */
    unsigned due;             /* how many it may send now */
    uint64_t opened;
    char *rest;               /* plain text of an incomplete frame */
    size_t rest_size, rest_room;
    char *cipher;             /* what the socket did not take */
    size_t cipher_size, cipher_room;
    struct seen rooms[ROOMS];
    unsigned room_count;
    uint64_t *times;          /* of each send: when, or when it should have been */
    struct arrivals (*came)[2]; /* of each send: here and elsewhere */
    uint64_t *seqs;           /* its acknowledged seq, or for a fetch where its page ends */
    uint32_t sent, answered, send_room;
};

static char host[64] = "127.0.0.1", name[128] = "localhost", ca[4096], acked_path[4096], tag[32] = "t";
static int port, pids[PIDS], pid_count, server_core = -1, load_core = -1, parallel = 32, sealed, verify = 1, sources, storm;
static struct {
    char word[16];
    int pid;
} beside[BESIDE];
static int beside_count;
static unsigned body_size = 200;
static double seconds = 5, warmup = 0.5, settle = 0.8, rate = 100;
static unsigned pause_us; /* after each turn, in open mode: what arrives meanwhile wakes nobody */
static uint64_t first = 51, last = 51;
static enum mode mode;

static struct connection *connections, **senders;
static int connection_count, sender_count, epoll_fd, opening, ready_count, next_token;
static const char **tokens;
static SSL_CTX *context;
static BIO_METHOD *method;

static uint64_t acked, deliveries, pages, errors, gaps, closed, connects, bytes_in, signals;
static bool sending, counting; /* counting: inside the measured window */
static uint64_t window_from, window_to, storm_ended;
static unsigned retries;
static int storming; /* how many of the storm are not back */

static const char *input; /* cipher text just read, for the connection at hand */
static size_t input_size;
static char cipher_buffer[READ], *plain;
static char *outgoing;
static size_t outgoing_room;

static void show(const char *what, const char *text, size_t size) {
    static unsigned count;
    if (++count <= SHOWN) fprintf(stderr, "load: %s: %.*s\n", what, (int)(size > 300 ? 300 : size), text);
    if (count > FAULTS_MAX) die("too many faults");
}

static void complain(const char *what, const char *text, size_t size) {
    errors++;
    show(what, text, size);
}

/* ── TLS over our own buffers: one recv and one send per turn of a connection ───────────────────────────────────────── */

static int bio_read(BIO *bio, char *to, int size) {
    BIO_clear_retry_flags(bio);
    if (!input_size) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t got = (size_t)size < input_size ? (size_t)size : input_size;
    memcpy(to, input, got);
    input += got;
    input_size -= got;
    return (int)got;
}

static int bio_write(BIO *bio, const char *from, int size) {
    struct connection *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (c->cipher_size + (size_t)size > c->cipher_room) {
        c->cipher_room = (c->cipher_size + (size_t)size) * 2;
        c->cipher = need(realloc(c->cipher, c->cipher_room));
    }
    memcpy(c->cipher + c->cipher_size, from, (size_t)size);
    c->cipher_size += (size_t)size;
    return size;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static void watch(struct connection *c, bool write) {
    if (write == c->want_write) return;
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    c->want_write = write;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
}

static void end(struct connection *c, const char *why) {
    if (c->state == DEAD) return;
    if (why && c->storms && c->state < READY) {
        retries++; /* turned away: it tries again */
    } else if (why) {
        closed++;
        show("connection ended", why, strlen(why));
    }
    if (c->state < READY && c->state != UNUSED) opening--;
    if (c->state == READY) ready_count--;
    c->state = DEAD;
    close(c->fd);
    SSL_free(c->ssl);
    c->ssl = NULL;
    c->rest_size = c->cipher_size = 0;
}

static void push(struct connection *c) {
    while (c->cipher_size) {
        ssize_t done = send(c->fd, c->cipher, c->cipher_size, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno != EAGAIN) end(c, strerror(errno));
            else watch(c, true);
            return;
        }
        memmove(c->cipher, c->cipher + done, c->cipher_size - (size_t)done);
        c->cipher_size -= (size_t)done;
    }
    watch(c, false);
}

static void write_plain(struct connection *c, const char *data, size_t size) {
    if (SSL_write(c->ssl, data, (int)size) <= 0) end(c, "TLS write failed");
}

/* Put the head of a masked WebSocket frame at `to`, with the mask 0; return its size. */
static size_t frame_head(char *to, int opcode, size_t size) {
    size_t head;
    to[0] = (char)(0x80 | opcode);
    if (size < 126) {
        to[1] = (char)(0x80 | size);
        head = 2;
    } else {
        to[1] = (char)(0x80 | 126);
        to[2] = (char)(size >> 8);
        to[3] = (char)(size & 255);
        head = 4;
    }
    memset(to + head, 0, 4);
    return head + 4;
}

/* Put a whole one; return its size. The payload may be where it will be, or further behind. */
static size_t frame(char *to, int opcode, const char *payload, size_t size) {
    char head[8];
    size_t head_size = frame_head(head, opcode, size);
    memmove(to + head_size, payload, size);
    memcpy(to, head, head_size);
    return head_size + size;
}

/* ── the sealed sub-protocol: a binary WebSocket message is a message of the handshake or a record ──────────────────── */

enum { FRAME_HEAD = 8, MESSAGE_AT = FRAME_HEAD + SEALED_HEAD }; /* a record is never so small that its frame's head would be less */

static void write_sealed(void *owner, const unsigned char *message, size_t size) {
    static char out[4096];
    struct connection *c = owner;
    if (c->state == DEAD) return;
    if (size > sizeof out - FRAME_HEAD) die("a message of the session is too big");
    write_plain(c, out, frame(out, 2, (const char *)message, size));
}

/* Make what is at `out + MESSAGE_AT` one record; return the size of its WebSocket frame. */
static size_t seal(struct connection *c, char *out, enum sealed_content kind, size_t size) {
    size = sealed_seal(c->sealed, kind, (unsigned char *)out + FRAME_HEAD, size);
    return frame_head(out, 2, size) + size;
}

static char *put_size(char *to, size_t size) {
    for (int shift = 24; shift >= 0; shift -= 8) *to++ = (char)(size >> shift);
    return to;
}

/* Write one message of text. */
static void write_text(struct connection *c, const char *text, size_t size) {
    static char out[MESSAGE_AT + 4 + 4096 + SEALED_TAIL];
    if (size > 4096) die("a message is too big");
    if (c->sealed) {
        memcpy(put_size(out + MESSAGE_AT, size), text, size);
        write_plain(c, out, seal(c, out, SEALED_APPLICATION, size + 4));
    } else {
        write_plain(c, out, frame(out, 1, text, size));
    }
}

/* Write a close frame, behind the sealed close record where there is a session. */
static void write_close(struct connection *c) {
    static char out[MESSAGE_AT + 64 + SEALED_TAIL];
    size_t size = 0;
    if (c->sealed) {
        memcpy(out + MESSAGE_AT, "\x03\xe8\0\0\0\0", 6);
        size = seal(c, out, SEALED_CLOSE, 6);
    }
    write_plain(c, out, size + frame(out + size, 8, "\x03\xe8", 2));
}

/* ── sending ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static uint64_t random_state = 88172645463325252u;

static uint64_t random_below(uint64_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % limit;
}

/* Write the next command of a connection at `text` as one message; return its size. */
static size_t command(struct connection *c, char *text, uint64_t when) {
    if (c->sent == c->send_room) {
        c->send_room = c->send_room ? c->send_room * 2 : 1024;
        c->times = need(realloc(c->times, c->send_room * sizeof *c->times));
        c->came = need(realloc(c->came, c->send_room * sizeof *c->came));
        c->seqs = need(realloc(c->seqs, c->send_room * sizeof *c->seqs));
    }
    uint32_t number = c->sent++;
    c->times[number] = when;
    memset(c->came[number], 0, sizeof c->came[number]);
    c->seqs[number] = 0;
    size_t size;
    if (mode == FETCH) {
        uint64_t before = first + random_below(last - first + 1);
        c->seqs[number] = before;
        size = (size_t)sprintf(
            text, "[{\"op\":\"fetch\",\"id\":\"%u\",\"room\":\"%s\",\"before\":%llu,\"limit\":50}]", number, c->room,
            (unsigned long long)before);
    } else {
        char cmid[64];
        unsigned cmid_size = (unsigned)sprintf(cmid, "%s-%d-%u.", tag, c->index, number);
        size = (size_t)sprintf(
            text, "[{\"op\":\"message.send\",\"id\":\"%u\",\"room\":\"%s\",\"cmid\":\"%.*s\",\"body\":\"", number, c->room,
            (int)cmid_size - 1, cmid);
        for (unsigned index = 0; index < body_size; index++) text[size++] = cmid[index % cmid_size];
        memcpy(text + size, "\"}]", 3);
        size += 3;
    }
    return size;
}

/* Put as many commands as fit into one record; return the size of its frame. */
static size_t record(struct connection *c, char *to, uint64_t when) {
    char *at = to + MESSAGE_AT;
    for (unsigned count = 0; c->due && count < RECORD_MESSAGES && at - to < RECORD; count++, c->due--) {
        size_t size = command(c, at + 4, when);
        at = put_size(at, size) + size;
    }
    return seal(c, to, SEALED_APPLICATION, (size_t)(at - to - MESSAGE_AT));
}

static void send_due(struct connection *c, uint64_t when) {
    size_t size = 0, room = c->due * (body_size + 512ul + MESSAGE_AT + SEALED_TAIL);
    if (!c->due) return;
    if (outgoing_room < room) {
        outgoing_room = room;
        outgoing = need(realloc(outgoing, outgoing_room));
    }
    while (c->due) {
        if (c->sealed) {
            size += record(c, outgoing + size, when);
        } else {
            char *text = outgoing + size + FRAME_HEAD;
            c->due--;
            size += frame(outgoing + size, 1, text, command(c, text, when));
        }
    }
    write_plain(c, outgoing, size);
}

/* ── reading JSON: forward, over what a frame is made of ────────────────────────────────────────────────────────────── */

static const char *after_string(const char *p, const char *stop) { /* p: behind the opening quote; returns the closing one */
    for (;;) {
        const char *quote = memchr(p, '"', (size_t)(stop - p));
        if (!quote) return NULL;
        const char *slash = quote;
        while (slash > p && slash[-1] == '\\') slash--;
        if (!((quote - slash) & 1)) return quote;
        p = quote + 1;
    }
}

static const char *after_value(const char *p, const char *stop) {
    if (p < stop && *p == '"') {
        p = after_string(p + 1, stop);
        return p ? p + 1 : NULL;
    }
    if (p < stop && (*p == '{' || *p == '[')) {
        int depth = 0;
        while (p < stop) {
            if (*p == '"') {
                p = after_string(p + 1, stop);
                if (!p) return NULL;
            } else if (*p == '{' || *p == '[') {
                depth++;
            } else if ((*p == '}' || *p == ']') && !--depth) {
                return p + 1;
            }
            p++;
        }
        return NULL;
    }
    const char *start = p;
    while (p < stop && *p != ',' && *p != '}' && *p != ']') p++;
    return p > start ? p : NULL;
}

/* Step to the next member of an object: p is at `{` or `,`. Returns what follows the value; strings come without quotes. */
static const char *member(const char *p, const char *stop, struct span *key, struct span *value) {
    if (stop - p < 2 || p[1] != '"') return NULL;
    const char *quote = after_string(p + 2, stop);
    if (!quote || stop - quote < 3 || quote[1] != ':') return NULL;
    *key = (struct span){p + 2, (size_t)(quote - p - 2)};
    const char *from = quote + 2, *to = after_value(from, stop);
    if (!to || to >= stop) return NULL;
    if (*from == '"') *value = (struct span){from + 1, (size_t)(to - from - 2)};
    else *value = (struct span){from, (size_t)(to - from)};
    return to;
}

static bool is(struct span text, const char *word) {
    size_t size = strlen(word);
    return text.size == size && !memcmp(text.at, word, size);
}

static uint64_t number(struct span text) {
    uint64_t value = 0;
    for (size_t index = 0; index < text.size && text.at[index] >= '0' && text.at[index] <= '9'; index++)
        value = value * 10 + (uint64_t)(text.at[index] - '0');
    return value;
}

struct fields {
    struct span op, id, type, room, seq, cmid, data, body;
};

static const char *object(const char *p, const char *stop, struct fields *found) {
    struct span key, value;
    memset(found, 0, sizeof *found);
    if (p >= stop || *p != '{') return NULL;
    if (p + 1 < stop && p[1] == '}') return p + 2;
    do {
        p = member(p, stop, &key, &value);
        if (!p) return NULL;
        switch (key.size) {
        case 2:
            if (key.at[0] == 'o') found->op = value;
            else if (key.at[0] == 'i') found->id = value;
            break;
        case 3:
            if (!memcmp(key.at, "seq", 3)) found->seq = value;
            break;
        case 4:
            if (!memcmp(key.at, "type", 4)) found->type = value;
            else if (!memcmp(key.at, "room", 4)) found->room = value;
            else if (!memcmp(key.at, "cmid", 4)) found->cmid = value;
            else if (!memcmp(key.at, "data", 4)) found->data = value;
            else if (!memcmp(key.at, "body", 4)) found->body = value;
            break;
        default: break;
        }
    } while (*p == ',');
    return *p == '}' ? p + 1 : NULL;
}

/* ── what comes ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static struct seen *room_of(struct connection *c, struct span id) {
    for (unsigned index = 0; index < c->room_count; index++)
        if (c->rooms[index].size == id.size && !memcmp(c->rooms[index].id, id.at, id.size)) return &c->rooms[index];
    return NULL;
}

static void on_event(struct connection *c, const struct fields *f) {
    struct seen *room = room_of(c, f->room);
    uint64_t seq = number(f->seq);
    if (!room || seq != room->last + 1) {
        gaps++;
        show("not the next seq", f->room.at, f->room.size + 20);
        if (room) room->last = seq;
        return;
    }
    room->last = seq;
    if (!is(f->type, "message.sent")) return;
    if (f->body.size != body_size) complain("not our body", f->body.at, f->body.size);
    deliveries++;
    if (mode == OPEN) { /* tag-connection-number */
        size_t size = strlen(tag);
        if (f->cmid.size < size + 4 || memcmp(f->cmid.at, tag, size)) return;
        struct span sender = {f->cmid.at + size + 1, f->cmid.size - size - 1};
        const char *dash = memchr(sender.at, '-', sender.size);
        if (!dash) return;
        uint64_t which = number(sender);
        uint64_t count = number((struct span){dash + 1, (size_t)(sender.at + sender.size - dash - 1)});
        if (which >= (uint64_t)connection_count || count >= connections[which].sent) return;
        uint64_t when = connections[which].times[count];
        if (when >= window_from && when < window_to && !c->storms) {
            bool away = connections[which].port != c->port;
            struct arrivals *came = &connections[which].came[count][away];
            uint64_t took = now_ns() - when;
            hist_add(away ? &elsewhere : &here, took);
            came->sum_ns += took;
            came->count++;
        }
    }
}

/* A message as the servers here write it: the same members in the same order, with ids of the same size. Return what follows it, or
 * NULL if it looks otherwise: then `object` reads it. */
static const char *quick_event(struct connection *c, const char *p, const char *stop) {
    static const char head[] = "{\"op\":\"event\",\"type\":\"message.sent\",\"room\":\"";
    enum { HEAD = sizeof head - 1, LEAST = 174, CMID = 64 };
    struct fields f = {0};
    if (stop - p < (ptrdiff_t)body_size + LEAST || memcmp(p, head, HEAD)) return NULL;
    f.type = (struct span){p + 22, 12};
    f.room = (struct span){p + HEAD, 19};
    p += HEAD + 19;
    if (memcmp(p, "\",\"seq\":", 8)) return NULL;
    f.seq.at = p += 8;
    while (*p >= '0' && *p <= '9') p++;
    f.seq.size = (size_t)(p - f.seq.at);
    ptrdiff_t left = stop - p - 90;
    if (left < (ptrdiff_t)body_size + 12) return NULL;
    if (memcmp(p, ",\"at\":", 6) || memcmp(p + 19, ",\"user\":\"", 9) || memcmp(p + 48, "\",\"device\":\"", 12)) return NULL;
    if (memcmp(p + 80, "\",\"cmid\":\"", 10)) return NULL;
    const char *quote = memchr(p + 90, '"', left < CMID ? (size_t)left : CMID);
    if (!quote || stop - quote < (ptrdiff_t)body_size + 12 || memcmp(quote, "\",\"body\":\"", 10)) return NULL;
    f.cmid = (struct span){p + 90, (size_t)(quote - p - 90)};
    f.body = (struct span){quote + 10, body_size};
    const char *close_ = f.body.at + body_size;
    if (memchr(f.body.at, '"', body_size + 1) != close_ || close_[1] != '}') return NULL;
    on_event(c, &f);
    return close_ + 2;
}

static void on_page(struct connection *c, uint32_t which, struct span data) {
    const char *stop = data.at + data.size;
    struct span key, value, entries = {0};
    for (const char *p = data.at; p && *p != '}';) {
        p = member(p, stop, &key, &value);
        if (p && is(key, "entries")) entries = value;
    }
    unsigned count = 0;
    uint64_t wanted = c->seqs[which] - 50;
    if (entries.size > 2) {
        const char *p = entries.at;
        do {
            struct fields f;
            p = object(p + 1, entries.at + entries.size, &f);
            if (!p) break;
            if (number(f.seq) != wanted++) gaps++;
            count++;
        } while (*p == ',');
    }
    if (count != 50) complain("not 50 entries", data.at, data.size);
    pages++;
}

static void on_reply(struct connection *c, const struct fields *f) {
    uint64_t which = number(f->id);
    if (which >= c->sent) {
        complain("a reply to nothing", f->id.at, f->id.size);
        return;
    }
    c->answered++;
    if (mode == FETCH) {
        on_page(c, (uint32_t)which, f->data);
    } else {
        struct fields data;
        if (!object(f->data.at, f->data.at + f->data.size, &data) && !data.seq.size) {
            complain("a reply without seq", f->data.at, f->data.size);
            return;
        }
        if (c->seqs[which]) complain("two replies", f->id.at, f->id.size);
        c->seqs[which] = number(data.seq);
        acked++;
    }
    if (counting && mode != OPEN) hist_add(&here, now_ns() - c->times[which]);
    if (sending && mode != OPEN) c->due++;
}

static void on_ready(struct connection *c, const char *text, size_t size) {
    const char *p = text, *stop = text + size;
    c->room_count = 0;
    while ((p = memmem(p, (size_t)(stop - p), "{\"id\":\"rm_", 10))) {
        if (c->room_count == ROOMS) die("too many rooms of one user");
        struct seen *room = &c->rooms[c->room_count++];
        const char *id = p + 7, *quote = memchr(id, '"', (size_t)(stop - id));
        const char *seq = memmem(p, (size_t)(stop - p), "\"last_seq\":", 11);
        if (!quote || quote - id >= ID || !seq) die("cannot read ready");
        room->size = (size_t)(quote - id);
        memcpy(room->id, id, room->size);
        room->last = strtoull(seq + 11, NULL, 10);
        p = seq;
    }
    c->state = READY;
    opening--;
    ready_count++;
    if (storming && c->storms && !--storming) storm_ended = now_ns();
    if (mode == CONNECT) {
        connects++;
        if (counting) hist_add(&here, now_ns() - c->opened);
        write_close(c);
        if (c->state != DEAD) c->state = CLOSING;
    }
}

static void on_text(struct connection *c, const char *text, size_t size) {
    const char *p = text, *stop = text + size;
    if (size < 2 || *p != '[' || stop[-1] != ']') {
        complain("not an array", text, size);
        return;
    }
    do {
        struct fields f;
        const char *from = p + 1, *quick = quick_event(c, from, stop);
        if (quick) {
            p = quick;
            continue;
        }
        p = object(from, stop, &f);
        if (!p || !f.op.size) {
            complain("not a frame", from, (size_t)(stop - from));
            return;
        }
        if (is(f.op, "event")) {
            on_event(c, &f);
        } else if (is(f.op, "reply")) {
            on_reply(c, &f);
        } else if (is(f.op, "signal")) {
            signals++;
        } else if (is(f.op, "hello")) {
            char out[4096];
            int length = snprintf(out, sizeof out, "[{\"op\":\"auth\",\"id\":\"a\",\"token\":\"%s\"}]", c->token);
            c->state = AUTH;
            write_text(c, out, (size_t)length);
        } else if (is(f.op, "ready")) {
            on_ready(c, from, (size_t)(p - from));
        } else {
            if (c->storms && c->state == AUTH) { /* too many at once: it comes again */
                end(c, "refused");
                return;
            }
            complain("refused", from, (size_t)(p - from));
            if (c->state == READY && f.id.size) {
                c->answered++;
                if (sending && mode != OPEN) c->due++;
            }
        }
    } while (*p == ',' && c->state != DEAD);
}

/* Open a message of the sealed sub-protocol, where it is, and take what is inside. */
static void on_sealed(struct connection *c, char *data, size_t size) {
    enum sealed_content kind;
    const unsigned char *content;
    size_t content_size;
    if (!c->sealed) {
        end(c, "a binary message on the clear sub-protocol");
        return;
    }
    const char *wrong = sealed_take(c->sealed, (unsigned char *)data, size, &kind, &content, &content_size);
    if (wrong) {
        end(c, wrong);
        return;
    }
    if (c->state == CLOSING || kind != SEALED_APPLICATION) return; /* a close record: the close frame behind it ends the connection */
    if (c->state == SEALING) c->state = HELLO;
    const char *p = (const char *)content, *stop = p + content_size;
    while (c->state != DEAD && c->state != CLOSING && p < stop) {
        size_t length = 0;
        for (int index = 0; index < 4 && p < stop; index++) length = length << 8 | (unsigned char)*p++;
        if (!length || length > (size_t)(stop - p)) {
            complain("the messages of a record", p, (size_t)(stop - p));
            return;
        }
        on_text(c, p, length);
        p += length;
    }
}

/* Take WebSocket frames from plain text; return how many bytes were used. */
static size_t on_plain(struct connection *c, char *data, size_t size) {
    size_t used = 0;
    if (c->state == UPGRADE) {
        char *blank = memmem(data, size, "\r\n\r\n", 4);
        if (!blank) return 0;
        if (size < 12 || memcmp(data, "HTTP/1.1 101", 12)) {
            end(c, "the upgrade was refused");
            return size;
        }
        c->state = HELLO;
        if (sealed) {
            char dialled[160];
            snprintf(dialled, sizeof dialled, "%s:%d", name, c->port);
            c->state = SEALING;
            sealed_hello(c->sealed, dialled);
            if (c->state == DEAD) return size;
        }
        used = (size_t)(blank + 4 - data);
    }
    while (c->state != DEAD && size - used >= 2) {
        const unsigned char *head = (const unsigned char *)data + used;
        size_t length = head[1] & 127u, start = 2;
        if (length == 126) {
            if (size - used < 4) break;
            length = (size_t)head[2] << 8 | head[3];
            start = 4;
        } else if (length == 127) {
            if (size - used < 10) break;
            length = 0;
            for (int index = 2; index < 10; index++) length = length << 8 | head[index];
            start = 10;
        }
        if (size - used < start + length) break;
        char *payload = data + used + start;
        switch (head[0]) {
        case 0x81:
            if (c->sealed) end(c, "a text message on the sealed sub-protocol");
            else on_text(c, payload, length);
            break;
        case 0x82: on_sealed(c, payload, length); break;
        case 0x89: {
            char out[256];
            write_plain(c, out, frame(out, 10, payload, length));
            break;
        }
        case 0x8a: break;
        case 0x88:
            if (c->state == CLOSING) {
                end(c, NULL);
            } else {
                char why[160];
                unsigned code = length >= 2 ? (unsigned)((unsigned char)payload[0] << 8 | (unsigned char)payload[1]) : 0;
                snprintf(why, sizeof why, "closed by the server, %u %.*s", code, length > 2 ? (int)(length - 2) : 0, payload + 2);
                end(c, why);
            }
            return size;
        default: end(c, "not a WebSocket frame"); return size;
        }
        used += start + length;
    }
    return used;
}

static void handshake(struct connection *c) {
    int result = SSL_do_handshake(c->ssl);
    if (result == 1) {
        char request[512];
        int size = snprintf(
            request, sizeof request,
            "GET /gateway HTTP/1.1\r\nHost: %s:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: c2VjdXJlY2hhdCBsb2FkIQ==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", name, c->port,
            sealed ? "securechat.v1" : "securechat.v1.clear");
        c->state = UPGRADE;
        write_plain(c, request, (size_t)size);
    } else if (SSL_get_error(c->ssl, result) != SSL_ERROR_WANT_READ) {
        ERR_print_errors_fp(stderr);
        end(c, "TLS handshake failed");
    }
}

static void on_readable(struct connection *c) {
    ssize_t got = recv(c->fd, cipher_buffer, sizeof cipher_buffer, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        end(c, c->state == CLOSING ? NULL : got ? strerror(errno) : "closed by the server");
        return;
    }
    bytes_in += (uint64_t)got;
    input = cipher_buffer;
    input_size = (size_t)got;
    if (c->state == HANDSHAKE) handshake(c);
    if (c->state == DEAD || c->state == HANDSHAKE) {
        if (c->state != DEAD) push(c);
        return;
    }
    size_t size = c->rest_size;
    if (size) memcpy(plain, c->rest, size);
    c->rest_size = 0;
    for (;;) {
        if (PLAIN - size < 16384) die("a frame is too big");
        int read = SSL_read(c->ssl, plain + size, (int)(PLAIN - size));
        if (read <= 0) {
            int error = SSL_get_error(c->ssl, read);
            if (error == SSL_ERROR_WANT_READ) break;
            end(c, c->state == CLOSING ? NULL : "TLS ended");
            return;
        }
        size += (size_t)read;
    }
    size_t used = on_plain(c, plain, size);
    if (c->state == DEAD) return;
    if (used < size) {
        if (c->rest_room < size - used) {
            c->rest_room = (size - used) * 2;
            c->rest = need(realloc(c->rest, c->rest_room));
        }
        c->rest_size = size - used;
        memcpy(c->rest, plain + used, c->rest_size);
    }
    if (c->due) send_due(c, now_ns());
    if (c->state != DEAD && c->cipher_size) push(c);
}

/* ── the run ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void start(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("host is no IPv4 address");
    if (sources) {
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101u + (unsigned)(c->index % sources))};
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) die("bind");
    }
    c->opened = now_ns();
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    c->state = CONNECTING;
    c->want_write = true;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    c->ssl = need(SSL_new(context));
    BIO *bio = need(BIO_new(method));
    BIO_set_data(bio, c);
    BIO_set_init(bio, 1);
    SSL_set_bio(c->ssl, bio, bio);
    SSL_set_tlsext_host_name(c->ssl, name);
    SSL_set1_host(c->ssl, name);
    SSL_set_connect_state(c->ssl);
    sealed_free(c->sealed);
    c->sealed = sealed ? sealed_new(c, write_sealed, sealed, verify) : NULL;
    opening++;
}

static void on_connected(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end(c, strerror(error));
        return;
    }
    c->state = HANDSHAKE;
    input_size = 0;
    handshake(c);
    if (c->state != DEAD) push(c);
}

static void turn(int timeout_ms) {
    static struct epoll_event events[1024];
    int count = epoll_wait(epoll_fd, events, 1024, timeout_ms);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int index = 0; index < count; index++) {
        struct connection *c = events[index].data.ptr;
        if (!c || c->state == DEAD) continue; /* NULL: the timer; the caller looks at the clock */
        if (c->state == CONNECTING) {
            on_connected(c);
            continue;
        }
        if (events[index].events & EPOLLOUT) push(c);
        if (c->state != DEAD && events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
    }
}

static int ms_until(uint64_t when) {
    uint64_t now = now_ns();
    return when <= now ? 0 : (int)((when - now) / 1000000u) + 1;
}

static double process_cpu(int pid, bool with_children) { /* seconds of all its threads; 0 if it has ended */
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    if (!line) return 0;
    unsigned long user = 0, kernel = 0;
    long children_user = 0, children_kernel = 0; /* of those that have ended */
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &user, &kernel, &children_user,
                     &children_kernel) != 4)
        die("/proc/PID/stat");
    double found = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
    if (!with_children) return found;
    found += (double)(children_user + children_kernel) / (double)sysconf(_SC_CLK_TCK);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    file = fopen(path, "r");
    for (int child; file && fscanf(file, "%d", &child) == 1;) found += process_cpu(child, true);
    if (file) fclose(file);
    return found;
}

static double server_cpu(void) {
    double found = 0;
    for (int index = 0; index < pid_count; index++) found += process_cpu(pids[index], false);
    return found;
}

static long server_rss(void) { /* KiB */
    long sum = 0;
    for (int index = 0; index < pid_count; index++) {
        char path[64], text[256];
        long rss = 0;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pids[index]);
        FILE *file = fopen(path, "r");
        if (!file) die("the server's memory cannot be read");
        while (fgets(text, sizeof text, file))
            if (sscanf(text, "Rss: %ld", &rss) == 1) break;
        fclose(file);
        sum += rss;
    }
    return sum;
}

static double own_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double core_time(int which) { /* seconds that a core worked, for whomever */
    char line[512], wanted[16];
    unsigned long user = 0, nice_ = 0, kernel = 0, irq = 0, soft = 0, stolen = 0;
    int size = snprintf(wanted, sizeof wanted, "cpu%d ", which);
    if (which < 0) return 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file) die("/proc/stat");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, wanted, (size_t)size))
            sscanf(line + size, "%lu %lu %lu %*u %*u %lu %lu %lu", &user, &nice_, &kernel, &irq, &soft, &stolen);
    fclose(file);
    return (double)(user + nice_ + kernel + irq + soft + stolen) / (double)sysconf(_SC_CLK_TCK);
}

struct snapshot {
    uint64_t at, acked, deliveries, pages, connects, bytes;
    double own, server, server_core, load_core, beside[BESIDE];
};

static struct snapshot snapshot(void) {
    struct snapshot found = {now_ns(), acked, deliveries, pages, connects, bytes_in, own_cpu(), server_cpu(), core_time(server_core),
                             core_time(load_core), {0}};
    for (int index = 0; index < beside_count; index++) found.beside[index] = process_cpu(beside[index].pid, true);
    return found;
}

static bool all_answered(void) {
    for (int index = 0; index < connection_count; index++)
        if (connections[index].answered < connections[index].sent) return false;
    return true;
}

/* How many deliveries are still to come: every connection of a room has to hold what the furthest one holds. */
static uint64_t missing(void) {
    struct top {
        char id[ID];
        uint64_t last;
    } *tops = need(calloc((size_t)connection_count * ROOMS + 1, sizeof *tops));
    unsigned count = 0;
    uint64_t sum = 0;
    for (int round = 0; round < 2; round++)
        for (int index = 0; index < connection_count; index++)
            for (unsigned r = 0; r < connections[index].room_count; r++) {
                struct seen *room = &connections[index].rooms[r];
                static unsigned hint;
                unsigned found = hint;
                if (found >= count || strcmp(tops[found].id, room->id))
                    for (found = 0; found < count && strcmp(tops[found].id, room->id); found++) {}
                if (found == count) strcpy(tops[count++].id, room->id);
                hint = found;
                if (!round && room->last > tops[found].last) tops[found].last = room->last;
                if (round) sum += tops[found].last - room->last;
            }
    for (int index = 0; index < connection_count; index++) { /* an acknowledged message may have reached nobody */
        struct connection *c = &connections[index];
        struct seen *room = c->room && mode != FETCH ? room_of(c, (struct span){c->room, strlen(c->room)}) : NULL;
        for (uint32_t which = 0; room && which < c->sent; which++)
            if (c->seqs[which] > room->last) sum++;
    }
    free(tops);
    return sum;
}

static void write_acked(void) {
    if (!*acked_path) return;
    FILE *file = fopen(acked_path, "w");
    if (!file) die(acked_path);
    for (int index = 0; index < connection_count; index++)
        for (uint32_t which = 0; which < connections[index].sent; which++)
            fprintf(
                file, "%s %llu %s-%d-%u\n", connections[index].room, (unsigned long long)connections[index].seqs[which], tag, index,
                which);
    if (fclose(file)) die(acked_path);
}

static void read_job(void) {
    static const char *const modes[] = {"closed", "open", "idle", "connect", "fetch"};
    char *line = NULL, key[16], word[4096], room[64];
    size_t room_size = 0;
    int space = 0;
    while (getline(&line, &room_size, stdin) > 0) {
        unsigned outstanding;
        int by_port = 0;
        if (sscanf(line, "%15s %4095s", key, word) != 2) continue;
        if (!strcmp(key, "host")) snprintf(host, sizeof host, "%.63s", word);
        else if (!strcmp(key, "name")) snprintf(name, sizeof name, "%.127s", word);
        else if (!strcmp(key, "ca")) snprintf(ca, sizeof ca, "%s", word);
        else if (!strcmp(key, "acked")) snprintf(acked_path, sizeof acked_path, "%s", word);
        else if (!strcmp(key, "tag")) snprintf(tag, sizeof tag, "%.31s", word);
        else if (!strcmp(key, "port")) port = atoi(word);
        else if (!strcmp(key, "sources")) sources = atoi(word);
        else if (!strcmp(key, "storm")) storm = atoi(word);
        else if (!strcmp(key, "pid")) {
            if (pid_count == PIDS) die("too many servers");
            pids[pid_count++] = atoi(word);
        } else if (!strcmp(key, "beside")) {
            if (beside_count == BESIDE) die("too much beside");
            snprintf(beside[beside_count].word, sizeof beside->word, "%.15s", word);
            if (sscanf(line, "%*s %*s %d", &beside[beside_count++].pid) != 1) die("beside WORD PID");
        }
        else if (!strcmp(key, "server_core")) server_core = atoi(word);
        else if (!strcmp(key, "load_core")) load_core = atoi(word);
        else if (!strcmp(key, "parallel")) parallel = atoi(word);
        else if (!strcmp(key, "sealed")) sealed = atoi(word);
        else if (!strcmp(key, "verify")) verify = atoi(word);
        else if (!strcmp(key, "body")) body_size = (unsigned)atoi(word);
        else if (!strcmp(key, "seconds")) seconds = atof(word);
        else if (!strcmp(key, "warmup")) warmup = atof(word);
        else if (!strcmp(key, "settle")) settle = atof(word);
        else if (!strcmp(key, "pause_us")) pause_us = (unsigned)atoi(word);
        else if (!strcmp(key, "rate")) rate = atof(word);
        else if (!strcmp(key, "first")) first = strtoull(word, NULL, 10);
        else if (!strcmp(key, "last")) last = strtoull(word, NULL, 10);
        else if (!strcmp(key, "mode")) {
            int found = 0;
            while (found < 5 && strcmp(modes[found], word)) found++;
            if (found == 5) die("unknown mode");
            mode = (enum mode)found;
        } else if (!strcmp(key, "conn")) {
            if (sscanf(line, "%*s %*s %63s %u %d", room, &outstanding, &by_port) < 2) die("conn TOKEN ROOM N PORT");
            if (connection_count == space) {
                space = space ? space * 2 : 256;
                connections = need(realloc(connections, (size_t)space * sizeof *connections));
            }
            struct connection *c = &connections[connection_count];
            memset(c, 0, sizeof *c);
            c->index = connection_count++;
            c->token = need(strdup(word));
            c->room = strcmp(room, "-") ? need(strdup(room)) : NULL;
            c->outstanding = outstanding;
            c->port = by_port;
        } else {
            die("unknown word in the job");
        }
    }
    free(line);
    if (!connection_count || !port || body_size > BODY_MAX || last < first || first < 51 || sealed < 0 || sealed > 2 ||
        storm > connection_count || sources > 65000)
        die("the job is not complete");
    senders = need(calloc((size_t)connection_count, sizeof *senders));
    tokens = need(calloc((size_t)connection_count, sizeof *tokens));
    for (int index = 0; index < connection_count; index++) {
        tokens[index] = connections[index].token;
        if (!connections[index].port) connections[index].port = port;
        connections[index].storms = index >= connection_count - storm;
        if (connections[index].room) senders[sender_count++] = &connections[index];
    }
}

static void prepare_tls(void) {
    context = need(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    if (!SSL_CTX_load_verify_locations(context, ca, NULL)) die("ca");
    method = need(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "load"));
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_ctrl(method, bio_ctrl);
}

static void connect_all(void) {
    uint64_t limit = now_ns() + 60000000000u;
    int next = 0;
    while (ready_count < connection_count) {
        while (next < connection_count && opening < parallel) start(&connections[next++]);
        turn(1000);
        if (closed) die("a connection failed");
        if (now_ns() > limit) die("the connections are not ready after 60 s");
    }
}

static void idle_until(uint64_t when) {
    while (now_ns() < when) turn(ms_until(when));
}

static void run_closed(struct snapshot *before, struct snapshot *after) {
    sending = true;
    for (int index = 0; index < sender_count; index++) {
        senders[index]->due = senders[index]->outstanding;
        send_due(senders[index], now_ns());
        push(senders[index]);
    }
    idle_until(now_ns() + (uint64_t)(warmup * 1e9));
    *before = snapshot();
    counting = true;
    idle_until(before->at + (uint64_t)(seconds * 1e9));
    *after = snapshot();
    counting = sending = false;
}

/* Have those end that do, and all of them come back at once; who is turned away tries again, a second later. */
static void begin_storm(void) {
    for (int index = 0; index < connection_count; index++) {
        struct connection *c = &connections[index];
        if (!c->storms) continue;
        if (c->state != DEAD) end(c, NULL);
        storming++;
    }
    for (int index = connection_count - storm; index < connection_count; index++) start(&connections[index]);
}

static void run_open(struct snapshot *before, struct snapshot *after) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (timer < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &event)) die("timerfd");
    uint64_t begin = now_ns() + 10000000u, sent = 0;
    bool started = false;
    window_from = begin + (uint64_t)(warmup * 1e9);
    window_to = window_from + (uint64_t)(seconds * 1e9);
    for (;;) {
        uint64_t now = now_ns(), when;
        if (!started && now >= window_from) {
            *before = snapshot();
            started = true;
            if (storm) begin_storm();
        }
        while ((when = begin + (uint64_t)((double)sent * 1e9 / rate)) <= now && when < window_to) {
            struct connection *c = senders[sent++ % (uint64_t)sender_count];
            if (c->state == DEAD) continue;
            c->due = 1;
            send_due(c, when);
            push(c);
        }
        if (now >= window_to) break;
        for (int index = storming ? connection_count - storm : connection_count; index < connection_count; index++)
            if (connections[index].state == DEAD && now - connections[index].opened > 1000000000u) start(&connections[index]);
        if (when > window_to) when = window_to;
        struct itimerspec at = {.it_value = {(time_t)(when / 1000000000u), (long)(when % 1000000000u)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        turn(1000);
        if (pause_us) nanosleep(&(struct timespec){.tv_nsec = (long)pause_us * 1000}, NULL);
    }
    *after = snapshot();
    close(timer);
}

static void run_connect(struct snapshot *before, struct snapshot *after) {
    uint64_t begin = now_ns(), from = begin + (uint64_t)(warmup * 1e9), to = from + (uint64_t)(seconds * 1e9);
    int slots = parallel < connection_count ? parallel : connection_count;
    bool more = true;
    while (true) {
        uint64_t now = now_ns();
        bool open = false;
        if (!counting && now >= from && more) {
            *before = snapshot();
            counting = true;
        }
        if (counting && now >= to) {
            *after = snapshot();
            counting = more = false;
        }
        for (int index = 0; index < slots; index++) {
            struct connection *c = &connections[index];
            if (more && (c->state == UNUSED || c->state == DEAD)) {
                c->token = tokens[next_token++ % connection_count];
                start(c);
            }
            open |= c->state != DEAD;
        }
        if ((!more && !open) || now > to + 10000000000u) return;
        turn(5);
    }
}

static void compare_arrivals(void) {
    for (int index = 0; index < connection_count; index++) {
        const struct connection *c = &connections[index];
        for (uint32_t number = 0; number < c->sent; number++) {
            const struct arrivals *at_home = &c->came[number][0], *away = &c->came[number][1];
            if (!at_home->count || !away->count) continue;
            uint64_t home_ns = at_home->sum_ns / at_home->count, away_ns = away->sum_ns / away->count;
            hist_add(&added, away_ns > home_ns ? away_ns - home_ns : 0);
        }
    }
}

int main(void) {
    struct snapshot before = {0}, after = {0};
    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    read_job();
    plain = need(malloc(PLAIN));
    prepare_tls();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) die("epoll_create1");
    long rss_before = server_rss(), rss_after = 0;
    if (mode == CONNECT) {
        run_connect(&before, &after);
    } else {
        connect_all();
        idle_until(now_ns() + (uint64_t)(settle * 1e9));
        if (mode == IDLE) {
            before = snapshot();
            idle_until(now_ns() + (uint64_t)(seconds * 1e9));
            after = snapshot();
        } else if (mode == OPEN) {
            run_open(&before, &after);
        } else {
            run_closed(&before, &after);
        }
        rss_after = server_rss();
        uint64_t limit = now_ns() + 10000000000u;
        while (now_ns() < limit && !(all_answered() && !missing())) turn(20);
    }
    uint64_t unanswered = 0, lost = mode == CONNECT ? 0 : missing();
    for (int index = 0; index < connection_count; index++) unanswered += connections[index].sent - connections[index].answered;
    write_acked();
    printf(
        "{\"elapsed_s\":%.6f,\"acked\":%llu,\"deliveries\":%llu,\"pages\":%llu,\"connects\":%llu,\"bytes_in\":%llu,"
        "\"own_cpu_s\":%.4f,\"server_cpu_s\":%.4f,"
        "\"server_core_s\":%.4f,\"load_core_s\":%.4f,\"rss_before_kib\":%ld,\"rss_after_kib\":%ld,\"beside_cpu_s\":{",
        (double)(after.at - before.at) / 1e9, (unsigned long long)(after.acked - before.acked),
        (unsigned long long)(after.deliveries - before.deliveries), (unsigned long long)(after.pages - before.pages),
        (unsigned long long)(after.connects - before.connects), (unsigned long long)(after.bytes - before.bytes),
        after.own - before.own, after.server - before.server, after.server_core - before.server_core,
        after.load_core - before.load_core, rss_before, rss_after);
    for (int index = 0; index < beside_count; index++)
        printf("%s\"%s\":%.4f", index ? "," : "", beside[index].word, after.beside[index] - before.beside[index]);
    printf("},");
    hist_print("latency_us", &here);
    hist_print("elsewhere_us", &elsewhere);
    compare_arrivals();
    hist_print("added_us", &added);
    printf(
        "\"storm_s\":%.3f,\"storm_missing\":%d,\"storm_retries\":%u,"
        "\"total_acked\":%llu,\"total_deliveries\":%llu,\"signals\":%llu,"
        "\"errors\":%llu,\"gaps\":%llu,\"closed\":%llu,\"unanswered\":%llu,\"missing\":%llu}\n",
        storm_ended ? (double)(storm_ended - before.at) / 1e9 : 0.0, storming, retries, (unsigned long long)acked,
        (unsigned long long)deliveries, (unsigned long long)signals, (unsigned long long)errors, (unsigned long long)gaps,
        (unsigned long long)closed, (unsigned long long)unanswered, (unsigned long long)lost);
    return 0;
}
