/* See sealed.h. The numbers in comments are sections of spec/session-layer.md. */
#define _GNU_SOURCE
#include "sealed.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HASH = 32, IV = 12, TAG = 16, BIND = 22, SAID = 4096, SHARE = 65, P256 = 1, X25519 = 2 };
enum message { CLIENT_HELLO = 1, SERVER_HELLO, SERVER_AUTH, SERVER_FIN, CLIENT_FIN };
enum control { INIT = 0x21, REPLY, DONE, CONFIRM };

struct keys {
    unsigned char transcript[HASH], c2s_key[HASH], c2s_iv[IV], c2s_mac[HASH], s2c_key[HASH], s2c_iv[IV], s2c_mac[HASH];
    unsigned char c_fin[HASH], s_fin[HASH], chain[HASH];
};

struct direction { /* of one epoch */
    EVP_CIPHER_CTX *cipher;
    EVP_MAC_CTX *mac;
    unsigned char bind[BIND], iv[IV];
    uint32_t epoch;
    uint64_t seq;
};

struct sealed {
    void *owner;
    sealed_write *write;
    bool verify;
    enum message expected; /* 0: the session is there */
    int suite;
    EVP_PKEY *ephemeral[X25519 + 1]; /* by suite */
    unsigned char share[SHARE], session_id[16], key_id[HASH];
    size_t share_size;
    unsigned char said[SAID]; /* F(m) of each message */
    size_t said_size;
    int64_t offset_ms; /* the server's clock less our own */
    struct keys keys, next;
    bool changing; /* a rekey was answered and not yet done */
    struct direction sends, receives;
};

struct reader {
    const unsigned char *at;
    size_t left;
    bool bad;
};

static EVP_CIPHER *gcm;
static EVP_MAC *hmac;

/* What cannot fail but for want of memory, or of an algorithm. */
static void sure(bool done) {
    if (done) return;
    fputs("load: OpenSSL failed\n", stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int64_t monotonic_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ── bytes ──────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static unsigned char *put(unsigned char *to, uint64_t value, unsigned size) {
    while (size) *to++ = (unsigned char)(value >> (8 * --size));
    return to;
}

static unsigned char *copy(unsigned char *to, const void *data, size_t size) {
    memcpy(to, data, size);
    return to + size;
}

static unsigned char *vec16(unsigned char *to, const void *data, size_t size) { return copy(put(to, size, 2), data, size); }

static const unsigned char *take(struct reader *r, size_t size) {
    static const unsigned char nothing[256];
    if (r->bad || size > r->left) {
        r->bad = true;
        return nothing;
    }
    r->at += size;
    r->left -= size;
    return r->at - size;
}

static uint64_t number(struct reader *r, unsigned size) {
    const unsigned char *from = take(r, size);
    uint64_t value = 0;
    for (unsigned index = 0; index < size; index++) value = value << 8 | from[index];
    return value;
}

static void say(struct sealed *s, const unsigned char *message, size_t size) { /* into the transcript */
    sure(s->said_size + 4 + size <= SAID);
    copy(put(s->said + s->said_size, size, 4), message, size);
    s->said_size += 4 + size;
}

static void hash(const void *data, size_t size, unsigned char digest[HASH]) {
    sure(EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL));
}

static void tag(const unsigned char key[HASH], const void *data, size_t size, unsigned char digest[HASH]) {
    sure(HMAC(EVP_sha256(), key, HASH, data, size, digest, NULL) != NULL);
}

static bool holds(const unsigned char key[HASH], const unsigned char *said, const unsigned char *found) {
    unsigned char expected[HASH];
    tag(key, said, HASH, expected);
    return !CRYPTO_memcmp(expected, found, HASH);
}

/* ── keys (4) ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void label(const unsigned char root[HASH], const char *name, const struct keys *keys, unsigned char *to, unsigned size) {
    unsigned char info[80], block[HASH], *end = put(info, size, 2);
    end = put(end, strlen(name) + 6, 1);
    end = copy(copy(end, "scsl1 ", 6), name, strlen(name));
    end = copy(put(end, HASH, 1), keys->transcript, HASH);
    *end++ = 1; /* the only block of HKDF-Expand */
    tag(root, info, (size_t)(end - info), block);
    memcpy(to, block, size);
}

/* transcript: set already. */
static void derive(struct keys *keys, const unsigned char chain[HASH], const unsigned char secret[HASH]) {
    unsigned char root[HASH];
    tag(chain, secret, HASH, root);
    label(root, "c2s key", keys, keys->c2s_key, HASH);
    label(root, "c2s iv", keys, keys->c2s_iv, IV);
    label(root, "c2s mac", keys, keys->c2s_mac, HASH);
    label(root, "s2c key", keys, keys->s2c_key, HASH);
    label(root, "s2c iv", keys, keys->s2c_iv, IV);
    label(root, "s2c mac", keys, keys->s2c_mac, HASH);
    label(root, "c fin", keys, keys->c_fin, HASH);
    label(root, "s fin", keys, keys->s_fin, HASH);
    label(root, "chain", keys, keys->chain, HASH);
}

static void direction(
    struct direction *d, const struct sealed *s, int who, uint32_t epoch, const unsigned char *key, const unsigned char *iv,
    const unsigned char *mac) {
    OSSL_PARAM digest[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0), OSSL_PARAM_END};
    if (!gcm) sure((gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL)) && (hmac = EVP_MAC_fetch(NULL, "HMAC", NULL)));
    if (!d->cipher) sure((d->cipher = EVP_CIPHER_CTX_new()) && (d->mac = EVP_MAC_CTX_new(hmac)));
    sure(EVP_CipherInit_ex2(d->cipher, gcm, key, NULL, who == 1, NULL));
    sure(EVP_MAC_init(d->mac, mac, HASH, digest));
    copy(put(copy(d->bind, "SCSL1", 5), (uint64_t)who, 1), s->session_id, 16);
    memcpy(d->iv, iv, IV);
    d->epoch = epoch;
    d->seq = 0;
}

static void switch_sending(struct sealed *s, const struct keys *keys, uint32_t epoch) {
    direction(&s->sends, s, 1, epoch, keys->c2s_key, keys->c2s_iv, keys->c2s_mac);
}

static void switch_receiving(struct sealed *s, const struct keys *keys, uint32_t epoch) {
    direction(&s->receives, s, 2, epoch, keys->s2c_key, keys->s2c_iv, keys->s2c_mac);
}

static EVP_PKEY *ephemeral(int suite) {
    EVP_PKEY *key = suite == X25519 ? EVP_PKEY_Q_keygen(NULL, NULL, "X25519") : EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    sure(key != NULL);
    return key;
}

static unsigned char *put_share(unsigned char *to, EVP_PKEY *key) {
    unsigned char *share = NULL;
    size_t size = EVP_PKEY_get1_encoded_public_key(key, &share);
    sure(size > 0);
    to = vec16(to, share, size);
    OPENSSL_free(share);
    return to;
}

static bool exchange(EVP_PKEY *own, const unsigned char *share, size_t share_size, unsigned char secret[HASH]) {
    size_t size = HASH;
    EVP_PKEY *peer = EVP_PKEY_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
    bool done = peer && context && EVP_PKEY_copy_parameters(peer, own) == 1 &&
                EVP_PKEY_set1_encoded_public_key(peer, share, share_size) == 1 && EVP_PKEY_derive_init(context) == 1 &&
                EVP_PKEY_derive_set_peer(context, peer) == 1 && EVP_PKEY_derive(context, secret, &size) == 1 && size == HASH;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    return done;
}

/* ── the server's signature ─────────────────────────────────────────────────────────────────────────────────────────── */

static EVP_PKEY *identity; /* of the server: all sessions have the same, so it is read once */
static unsigned char identity_id[HASH];

static bool know(const unsigned char *spki, size_t size, const unsigned char key_id[HASH]) {
    unsigned char id[HASH];
    hash(spki, size, id);
    if (memcmp(id, key_id, HASH)) return false;
    if (identity && !memcmp(id, identity_id, HASH)) return true;
    EVP_PKEY_free(identity);
    memcpy(identity_id, id, HASH);
    identity = d2i_PUBKEY(NULL, &spki, (long)size);
    return identity && EVP_PKEY_is_a(identity, "RSA");
}

static bool signed_by_identity(const char *purpose, const unsigned char digest[HASH], const unsigned char *signature, size_t size) {
    unsigned char text[160];
    memset(text, 0x20, 64);
    unsigned char *end = copy(copy(text + 64, purpose, strlen(purpose) + 1), digest, HASH);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *options = NULL;
    bool good = context && EVP_DigestVerifyInit(context, &options, EVP_sha256(), NULL, identity) == 1 &&
                EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING) == 1 &&
                EVP_PKEY_CTX_set_rsa_pss_saltlen(options, HASH) == 1 &&
                EVP_DigestVerify(context, signature, size, text, (size_t)(end - text)) == 1;
    EVP_MD_CTX_free(context);
    return good;
}

/* ── the handshake (3) ──────────────────────────────────────────────────────────────────────────────────────────────── */

struct sealed *sealed_new(void *owner, sealed_write *write, int suite, bool verify) {
    struct sealed *s = calloc(1, sizeof *s);
    sure(s != NULL);
    s->owner = owner;
    s->write = write;
    s->suite = suite;
    s->verify = verify;
    s->expected = SERVER_HELLO;
    return s;
}

static void forget_ephemerals(struct sealed *s) {
    for (int suite = P256; suite <= X25519; suite++) {
        EVP_PKEY_free(s->ephemeral[suite]);
        s->ephemeral[suite] = NULL;
    }
}

void sealed_free(struct sealed *s) {
    if (!s) return;
    forget_ephemerals(s);
    EVP_CIPHER_CTX_free(s->sends.cipher);
    EVP_CIPHER_CTX_free(s->receives.cipher);
    EVP_MAC_CTX_free(s->sends.mac);
    EVP_MAC_CTX_free(s->receives.mac);
    OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

void sealed_hello(struct sealed *s, const char *host) {
    static const unsigned char protocols[] = "\0\016\015securechat.v1\0\005\004json";
    unsigned char hello[1024] = {CLIENT_HELLO, 1}, shares[256], extensions[384], *share = shares, *end = put(hello + 2, 2 * s->suite, 2);
    for (int suite = s->suite; suite >= P256; suite--) {
        s->ephemeral[suite] = ephemeral(suite);
        share = put_share(put(share, suite, 2), s->ephemeral[suite]);
        end = put(end, suite, 2);
    }
    sure(RAND_bytes(end, 32) == 1);
    end = vec16(end + 32, shares, (size_t)(share - shares));
    unsigned char *extension = vec16(put(extensions, 1, 2), host, strlen(host));
    extension = vec16(put(extension, 2, 2), protocols, sizeof protocols - 1);
    end = vec16(end, extensions, (size_t)(extension - extensions));
    say(s, hello, (size_t)(end - hello));
    s->write(s->owner, hello, (size_t)(end - hello));
}

static const char *take_hello(struct sealed *s, struct reader r) {
    take(&r, 1);
    if (number(&r, 1) != 1) return "another version";
    uint64_t suite = number(&r, 2);
    take(&r, 32);
    memcpy(s->session_id, take(&r, 16), 16);
    s->offset_ms = (int64_t)number(&r, 8) - monotonic_ms();
    s->share_size = number(&r, 2);
    if (suite < P256 || suite > (uint64_t)s->suite || s->share_size > SHARE) return "a suite that was not offered";
    s->suite = (int)suite;
    memcpy(s->share, take(&r, s->share_size), s->share_size);
    take(&r, 8);
    memcpy(s->key_id, take(&r, HASH), HASH);
    take(&r, number(&r, 2));
    return r.bad || r.left ? "not a ServerHello" : NULL;
}

static const char *take_auth(struct sealed *s, struct reader r, const unsigned char *message, size_t size) {
    static const unsigned char nothing[] = "SecureChat SCSL/1 epoch 0";
    unsigned char digest[HASH], start[HASH], secret[HASH];
    take(&r, 1);
    size_t spki_size = number(&r, 2);
    const unsigned char *spki = take(&r, spki_size);
    size_t signature_size = number(&r, 2);
    const unsigned char *signature = take(&r, signature_size);
    if (r.bad || r.left) return "not a ServerAuth";
    if (!know(spki, spki_size, s->key_id)) return "not the server's key";
    hash(s->said, s->said_size, digest);
    if (s->verify && !signed_by_identity("SecureChat SCSL/1 server handshake", digest, signature, signature_size))
        return "not the server's signature";
    say(s, message, size);
    hash(s->said, s->said_size, s->keys.transcript);
    if (!exchange(s->ephemeral[s->suite], s->share, s->share_size, secret)) return "not a share";
    forget_ephemerals(s);
    hash(nothing, sizeof nothing - 1, start);
    derive(&s->keys, start, secret);
    return NULL;
}

static const char *take_fin(struct sealed *s, const unsigned char *message, size_t size) {
    unsigned char digest[HASH], answer[1 + HASH] = {CLIENT_FIN};
    if (size != 1 + HASH || !holds(s->keys.s_fin, s->keys.transcript, message + 1)) return "ServerFin does not fit";
    say(s, message, size);
    hash(s->said, s->said_size, digest);
    tag(s->keys.c_fin, digest, HASH, answer + 1);
    switch_sending(s, &s->keys, 0);
    switch_receiving(s, &s->keys, 0);
    s->write(s->owner, answer, sizeof answer);
    return NULL;
}

static const char *take_handshake(struct sealed *s, const unsigned char *message, size_t size) {
    const char *wrong;
    if (!size || message[0] != s->expected) return "not the next message of the handshake";
    struct reader r = {message, size, false};
    if (s->expected == SERVER_HELLO) {
        wrong = take_hello(s, r);
        say(s, message, size < 1024 ? size : 1024);
        s->expected = SERVER_AUTH;
    } else if (s->expected == SERVER_AUTH) {
        wrong = size > 1024 ? "ServerAuth too long" : take_auth(s, r, message, size);
        s->expected = SERVER_FIN;
    } else {
        wrong = take_fin(s, message, size);
        s->expected = 0;
    }
    return wrong;
}

/* ── records (5) ────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void nonce(const struct direction *d, unsigned char to[IV]) {
    put(to, 0, 4);
    put(to + 4, d->seq, 8);
    for (int index = 0; index < IV; index++) to[index] ^= d->iv[index];
}

/* The MAC over what binds the record, its header and its ciphertext. `bound` is the first of these. */
static void record_mac(struct direction *d, const unsigned char *bound, const unsigned char *text, size_t size, unsigned char *to) {
    sure(EVP_MAC_init(d->mac, NULL, 0, NULL) && EVP_MAC_update(d->mac, bound, BIND + SEALED_HEAD) &&
         EVP_MAC_update(d->mac, text, size) && EVP_MAC_final(d->mac, to, NULL, HASH));
}

static size_t padded(size_t size) {
    size_t full = 64;
    if (size > 1024) return (size + 1023) / 1024 * 1024;
    while (full < size) full *= 2;
    return full;
}

size_t sealed_seal(struct sealed *s, enum sealed_content kind, unsigned char *record, size_t content_size) {
    struct direction *d = &s->sends;
    size_t full = padded(content_size + 1);
    unsigned char *text = record + SEALED_HEAD, iv[IV], bound[BIND + SEALED_HEAD];
    int size = 0;
    text[content_size] = (unsigned char)kind;
    memset(text + content_size + 1, 0, full - content_size - 1);
    unsigned char *end = put(put(put(record, 0x10010000u, 4), d->epoch, 4), d->seq, 8);
    put(put(end, (uint64_t)(monotonic_ms() + s->offset_ms), 8), full + TAG, 4);
    copy(copy(bound, d->bind, BIND), record, SEALED_HEAD);
    nonce(d, iv);
    sure(EVP_CipherInit_ex2(d->cipher, NULL, NULL, iv, -1, NULL) &&
         EVP_CipherUpdate(d->cipher, NULL, &size, bound, sizeof bound) &&
         EVP_CipherUpdate(d->cipher, text, &size, text, (int)full) && EVP_CipherFinal_ex(d->cipher, text + full, &size) &&
         EVP_CIPHER_CTX_ctrl(d->cipher, EVP_CTRL_AEAD_GET_TAG, TAG, text + full));
    record_mac(d, bound, text, full + TAG, text + full + TAG);
    d->seq++;
    return SEALED_HEAD + full + TAG + HASH;
}

static const char *take_init(struct sealed *s, const unsigned char *message, size_t size, int64_t time_ms);
static const char *take_done(struct sealed *s, const unsigned char *message, size_t size);

const char *sealed_take(
    struct sealed *s, unsigned char *message, size_t size, enum sealed_content *kind, const unsigned char **content,
    size_t *content_size) {
    *kind = SEALED_HANDSHAKE;
    if (s->expected) return take_handshake(s, message, size);
    struct direction *d = &s->receives;
    unsigned char bound[BIND + SEALED_HEAD], mac[HASH], iv[IV], *text = message + SEALED_HEAD;
    int part = 0;
    if (size < SEALED_HEAD + TAG + 1 + HASH) return "a short record";
    struct reader r = {message, SEALED_HEAD, false};
    size_t text_size = size - SEALED_HEAD - HASH;
    copy(copy(bound, d->bind, BIND), message, SEALED_HEAD);
    record_mac(d, bound, text, text_size, mac);
    if (number(&r, 4) != 0x10010000u || CRYPTO_memcmp(mac, text + text_size, HASH)) return "a record that was not sealed for us";
    if (number(&r, 4) != d->epoch || number(&r, 8) != d->seq) return "not the next record";
    int64_t time_ms = (int64_t)number(&r, 8), offset_ms = time_ms - monotonic_ms();
    if (number(&r, 4) != text_size) return "the length of a record";
    nonce(d, iv);
    text_size -= TAG;
    if (!EVP_CipherInit_ex2(d->cipher, NULL, NULL, iv, -1, NULL) ||
        !EVP_CIPHER_CTX_ctrl(d->cipher, EVP_CTRL_AEAD_SET_TAG, TAG, text + text_size) ||
        !EVP_CipherUpdate(d->cipher, NULL, &part, bound, sizeof bound) ||
        !EVP_CipherUpdate(d->cipher, text, &part, text, (int)text_size) || !EVP_CipherFinal_ex(d->cipher, text + part, &part))
        return "a record whose tag does not fit";
    d->seq++;
    if (offset_ms > s->offset_ms) s->offset_ms = offset_ms;
    while (text_size && !text[text_size - 1]) text_size--;
    if (!text_size) return "an empty record";
    *kind = text[--text_size];
    *content = text;
    *content_size = text_size;
    if (*kind == SEALED_APPLICATION || *kind == SEALED_CLOSE) return NULL;
    if (*kind != SEALED_CONTROL || !text_size) return "a record of another kind";
    if (*text == INIT && !s->changing) return take_init(s, text, text_size, time_ms);
    if (*text == DONE && s->changing) return take_done(s, text, text_size);
    return "not the next message of a rekey";
}

/* ── the rekey (7) ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static void write_control(struct sealed *s, const unsigned char *content, size_t size) {
    unsigned char record[SEALED_HEAD + 256 + SEALED_TAIL];
    memcpy(record + SEALED_HEAD, content, size);
    s->write(s->owner, record, sealed_seal(s, SEALED_CONTROL, record, size));
}

static const char *take_init(struct sealed *s, const unsigned char *message, size_t size, int64_t time_ms) {
    static const char changed[] = "scsl1 rekey";
    uint32_t epoch = s->sends.epoch + 1;
    struct reader r = {message, size, false};
    take(&r, 1);
    if (number(&r, 4) != epoch) return "a rekey of another epoch";
    take(&r, 32);
    size_t share_size = number(&r, 2);
    const unsigned char *share = take(&r, share_size);
    size_t offer_size = size - r.left, signature_size = number(&r, 2);
    const unsigned char *signature = take(&r, signature_size);
    if (r.bad || r.left || size > 1024) return "not an INIT";

    unsigned char text[2048], digest[HASH], secret[HASH];
    unsigned char *end = copy(put(copy(text, s->keys.transcript, HASH), offer_size, 4), message, offer_size);
    hash(text, (size_t)(end - text), digest);
    if (s->verify && !signed_by_identity("SecureChat SCSL/1 server rekey", digest, signature, signature_size))
        return "not the server's signature of a rekey";

    unsigned char reply[256] = {REPLY}, confirm[1 + 4 + HASH + 2] = {CONFIRM};
    EVP_PKEY *key = ephemeral(s->suite);
    end = put(reply + 1, epoch, 4);
    sure(RAND_bytes(end, 32) == 1);
    end = put_share(end + 32, key);
    size_t reply_size = (size_t)(end - reply);
    bool shared = exchange(key, share, share_size, secret);
    EVP_PKEY_free(key);
    if (!shared) return "not a share";
    write_control(s, reply, reply_size);

    end = copy(copy(text, changed, sizeof changed - 1), s->keys.transcript, HASH);
    end = copy(put(copy(put(end, size, 4), message, size), reply_size, 4), reply, reply_size);
    hash(text, (size_t)(end - text), s->next.transcript);
    derive(&s->next, s->keys.chain, secret);
    s->offset_ms = time_ms - monotonic_ms();
    switch_sending(s, &s->next, epoch);
    end = put(confirm + 1, epoch, 4);
    tag(s->next.c_fin, s->next.transcript, HASH, end); /* and no signature of a device: its length stays 0 */
    write_control(s, confirm, sizeof confirm);
    s->changing = true;
    return NULL;
}

static const char *take_done(struct sealed *s, const unsigned char *message, size_t size) {
    struct reader r = {message, size, false};
    take(&r, 1);
    if (number(&r, 4) != s->sends.epoch || size != 1 + 4 + HASH || !holds(s->next.s_fin, s->next.transcript, message + 5))
        return "not a DONE";
    switch_receiving(s, &s->next, s->sends.epoch);
    s->keys = s->next;
    s->changing = false;
    return NULL;
}
