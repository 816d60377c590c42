/* Signatures in minisign's format (https://jedisct1.github.io/minisign/), as edgeemo_runtime/trust.py checks them: Ed25519 over
 * BLAKE2b-512 of the archive. The curve and BLAKE2b are monocypher's. */
#include "internal.h"
#include "../vendor/monocypher_names.h"
#include "../vendor/monocypher.h"

enum { EE_KEY = 42, EE_SIGNED = 74, EE_COMMENT = 64 };

/* Base64 (RFC 4648) of exactly `size` bytes, padded. */
static bool ee_base64(const char *text, size_t length, unsigned char *out, size_t size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t bits = 0, held = 0;
  size_t written = 0, padding = 0;
  while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) length--;
  while (length > 0 && strchr(" \t\r\n", *text) != NULL) text++, length--;
  if (length % 4 != 0 || length == 0) return false;
  for (; padding < 2 && text[length - 1] == '='; padding++) length--;
  if ((length * 6 / 8) != size || (length + padding) / 4 * 3 - padding != size) return false;
  for (size_t i = 0; i < length; i++) {
    const char *digit = text[i] == 0 ? NULL : strchr(digits, text[i]);
    if (digit == NULL) return false;
    bits = bits << 6 | (uint32_t)(digit - digits);
    held += 6;
    if (held >= 8) held -= 8, out[written++] = (unsigned char)(bits >> held & 255);
  }
  return written == size;
}

static bool ee_signed_by(const unsigned char key[32], const unsigned char signature[64], const unsigned char *data, size_t size) {
  unsigned char own_key[32], own[64], wide[64], reduced[32];
  memcpy(own_key, key, sizeof own_key);
  memcpy(own, signature, sizeof own);
  const ee_bytes pieces[3] = {{own, 32}, {own_key, 32}, {(unsigned char *)(uintptr_t)data, size}};
  ee_sha512(pieces, wide);
  crypto_eddsa_reduce(reduced, wide);
  return crypto_eddsa_check_equation(own, own_key, reduced) == 0;
}

/* The lines of a .minisig file. */
typedef struct ee_signature {
  unsigned char signature[EE_SIGNED]; /* "ED" (over the hash) or "Ed" (over all bytes), key id, 64 bytes */
  unsigned char of_comment[EE_COMMENT];
  const char *comment;
  size_t comment_size;
} ee_signature;

static bool ee_parse_signature(const char *text, size_t size, ee_signature *out) {
  static const char untrusted[] = "untrusted comment: ", trusted[] = "trusted comment: ";
  const char *lines[4];
  size_t lengths[4], at = 0;
  for (int i = 0; i < 4; i++) {
    if (at >= size) return false;
    const char *end = memchr(text + at, '\n', size - at);
    const size_t length = end == NULL ? size - at : (size_t)(end - text) - at;
    lines[i] = text + at;
    lengths[i] = length > 0 && text[at + length - 1] == '\r' ? length - 1 : length;
    at += length + 1;
  }
  if (lengths[0] < sizeof untrusted - 1 || memcmp(lines[0], untrusted, sizeof untrusted - 1) != 0) return false;
  if (lengths[2] < sizeof trusted - 1 || memcmp(lines[2], trusted, sizeof trusted - 1) != 0) return false;
  out->comment = lines[2] + sizeof trusted - 1;
  out->comment_size = lengths[2] - (sizeof trusted - 1);
  return ee_base64(lines[1], lengths[1], out->signature, EE_SIGNED) && ee_base64(lines[3], lengths[3], out->of_comment, EE_COMMENT) &&
         out->signature[0] == 'E' && (out->signature[1] == 'D' || out->signature[1] == 'd');
}

/* The trusted key that made the signature: its 32 bytes in `out`. */
static edgeemo_status ee_find_key(const char *name, const edgeemo_load_options *options, const unsigned char id[8], unsigned char out[32]) {
  for (size_t i = 0; i < options->key_count; i++) {
    unsigned char key[EE_KEY];
    const char *text = options->keys == NULL ? NULL : options->keys[i];
    if (text == NULL || !ee_base64(text, strlen(text), key, EE_KEY) || key[0] != 'E' || key[1] != 'd')
      return ee_fail(EDGEEMO_INVALID, "key %zu is no minisign public key; `edgeemo keygen` and `minisign -G` write one (.pub), its "
                                      "second line is the key", i);
    if (memcmp(key + 2, id, 8) == 0) return memcpy(out, key + 10, 32), EDGEEMO_OK;
  }
  return ee_fail(EDGEEMO_UNTRUSTED, "%s: is signed with key %02X%02X%02X%02X%02X%02X%02X%02X, which is not trusted here", name, id[7], id[6],
                 id[5], id[4], id[3], id[2], id[1], id[0]);
}

/* Whether an archive may run. `exposed`: others may write its file. */
static edgeemo_status ee_check_trust(const char *name, const ee_bytes *archive, const ee_bytes *signature, bool exposed,
                                     const edgeemo_load_options *options) {
  ee_signature s;
  unsigned char key[32], digest[64];
  if (options->key_count == 0) {
    if (!exposed || options->allow_writable != 0) return EDGEEMO_OK;
    return ee_fail(EDGEEMO_UNTRUSTED, "%s: others may write it, and an artifact is a program; chmod go-w and chown it, give keys, or set "
                                      "allow_writable", name);
  }
  if (signature->data == NULL)
    return ee_fail(EDGEEMO_UNTRUSTED, "%s: is not signed, and a signature is asked for; `edgeemo sign` writes one", name);
  if (!ee_parse_signature((const char *)signature->data, signature->size, &s))
    return ee_fail(EDGEEMO_UNTRUSTED, "the signature of %s: is no minisign signature; sign the artifact again", name);
  const edgeemo_status found = ee_find_key(name, options, s.signature + 2, key);
  if (found != EDGEEMO_OK) return found;
  const bool hashed = s.signature[1] == 'D';
  if (hashed) crypto_blake2b(digest, sizeof digest, archive->data, archive->size);
  if (!ee_signed_by(key, s.signature + 10, hashed ? digest : archive->data, hashed ? sizeof digest : archive->size))
    return ee_fail(EDGEEMO_UNTRUSTED, "%s: its signature is not of these bytes; copy artifact and .minisig again", name);
  unsigned char commented[64 + EE_SIGNATURE_LIMIT];
  if (s.comment_size > EE_SIGNATURE_LIMIT) return ee_fail(EDGEEMO_UNTRUSTED, "%s: its signature is too long", name);
  memcpy(commented, s.signature + 10, 64);
  memcpy(commented + 64, s.comment, s.comment_size);
  if (!ee_signed_by(key, s.of_comment, commented, 64 + s.comment_size))
    return ee_fail(EDGEEMO_UNTRUSTED, "%s: the comment in its signature was changed; copy the .minisig again", name);
  return EDGEEMO_OK;
}
