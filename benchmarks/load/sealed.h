/* The client's side of a sealed session (SCSL/1, spec/session-layer.md), without I/O, as lean as a load client needs it.
 *
 * It makes and takes the binary WebSocket messages of the sub-protocol `securechat.v1`: the handshake, records, the answers to a
 * rekey, the close record. Ciphers and MACs of a direction are made once per epoch and used again for each record. What it leaves
 * out, because a load client has no use for it: pins, the hard limits of an epoch, refusing late records.
 */
#ifndef SEALED_H
#define SEALED_H

#include <stdbool.h>
#include <stddef.h>

enum sealed_content { SEALED_HANDSHAKE, SEALED_APPLICATION, SEALED_CONTROL, SEALED_CLOSE };
enum { SEALED_HEAD = 28, SEALED_TAIL = 1024 + 16 + 32 }; /* room that a record needs before and behind its content */

struct sealed;

/* Writes one message. It may end the connection, but must not free the session. */
typedef void sealed_write(void *owner, const unsigned char *message, size_t size);

/* suite: 1 offers P-256, 2 offers X25519 before it. verify: check the server's signatures. */
struct sealed *sealed_new(void *owner, sealed_write *write, int suite, bool verify);
void sealed_free(struct sealed *s);

/* Write the ClientHello; host: `name:port` as dialled. */
void sealed_hello(struct sealed *s, const char *host);

/* Take the next message of the server and answer what has to be answered. It is opened where it is: `content` points into it.
 * Returns NULL, or what is wrong. The kind is SEALED_HANDSHAKE until the session is there, and SEALED_CONTROL for a rekey: with
 * both there is nothing left to do. */
const char *sealed_take(
    struct sealed *s, unsigned char *message, size_t size, enum sealed_content *kind, const unsigned char **content,
    size_t *content_size);

/* Seal what is at `record + SEALED_HEAD`, with SEALED_TAIL bytes of room behind it; return the size of the record. */
size_t sealed_seal(struct sealed *s, enum sealed_content kind, unsigned char *record, size_t content_size);

#endif
