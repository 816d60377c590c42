/* SHA-256 and SHA-512 (FIPS 180-4): hashes of an artifact's members, and what Ed25519 signs. Our own, 90 lines: monocypher, which
 * has the curve and BLAKE2b, has the second only in a part that its packages leave out, and the first not at all. */
#include "internal.h"

static const uint64_t ee_sha_k[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538, 0x59f111f1b605d019,
    0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3,
    0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65, 0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b, 0xa2bfe8a14cf10364, 0xa81a664bbc423001,
    0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb,
    0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c, 0xd186b8c721c0c207,
    0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a,
    0x5fcb6fab3ad6faec, 0x6c44198c4a475817};

/* Both begin with the same numbers, SHA-256 with their upper halves. */
static const uint64_t ee_sha_begin[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                         0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

#define EE_R32(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define EE_R64(x, n) ((x) >> (n) | (x) << (64 - (n)))

/* One round, after which the eight sums have changed places: S(k) is the sum that is in place k of round i. */
#define EE_SHA_ROUND(word, R, shift, i, a0, a1, a2, b0, b1, b2)                                                                    \
  do {                                                                                                                            \
    const word e = S(i, 4), a = S(i, 0);                                                                                          \
    const word t = S(i, 7) + (R(e, a0) ^ R(e, a1) ^ R(e, a2)) + ((e & S(i, 5)) ^ (~e & S(i, 6))) +                                \
                   (word)(ee_sha_k[at + (i)] >> (shift)) + w[(at + (i)) & 15];                                                    \
    S(i, 3) += t;                                                                                                                 \
    S(i, 7) = t + (R(a, b0) ^ R(a, b1) ^ R(a, b2)) + ((a & S(i, 1)) ^ (a & S(i, 2)) ^ (S(i, 1) & S(i, 2)));                       \
  } while (0)
#define S(i, k) s[((k) + 16 - (i)) & 7]

/* One block: `word` is uint32_t or uint64_t, R rotates it; so many rounds, and the distances of four sums. */
#define EE_SHA_BLOCK(name, word, swap, rounds, R, shift, a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2)                                 \
  static void name(word h[8], const unsigned char *p) {                                                                           \
    word w[16], s[8];                                                                                                             \
    memcpy(w, p, sizeof w);                                                                                                       \
    for (int i = 0; i < 16; i++) w[i] = swap(w[i]); /* of a little-endian machine, as all are that artifacts run on */            \
    memcpy(s, h, sizeof s);                                                                                                       \
    for (int at = 0; at < (rounds); at += 16) {                                                                                   \
      for (int i = 0; at > 0 && i < 16; i++) {                                                                                    \
        const word x = w[(i + 1) & 15], y = w[(i + 14) & 15];                                                                     \
        w[i] += w[(i + 9) & 15] + (R(x, c0) ^ R(x, c1) ^ x >> (c2)) + (R(y, d0) ^ R(y, d1) ^ y >> (d2));                          \
      }                                                                                                                           \
      EE_SHA_8(word, R, shift, 0, a0, a1, a2, b0, b1, b2)                                                                         \
      EE_SHA_8(word, R, shift, 8, a0, a1, a2, b0, b1, b2)                                                                         \
    }                                                                                                                             \
    for (int i = 0; i < 8; i++) h[i] += s[i];                                                                                     \
  }
#define EE_SHA_8(word, R, shift, i, ...)                                                                                          \
  EE_SHA_ROUND(word, R, shift, i, __VA_ARGS__);                                                                                   \
  EE_SHA_ROUND(word, R, shift, (i) + 1, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 2, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 3, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 4, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 5, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 6, __VA_ARGS__);                                                                             \
  EE_SHA_ROUND(word, R, shift, (i) + 7, __VA_ARGS__);

EE_SHA_BLOCK(ee_sha256_block, uint32_t, __builtin_bswap32, 64, EE_R32, 32, 6, 11, 25, 2, 13, 22, 7, 18, 3, 17, 19, 10)
EE_SHA_BLOCK(ee_sha512_block, uint64_t, __builtin_bswap64, 80, EE_R64, 0, 14, 18, 41, 28, 34, 39, 1, 8, 7, 19, 61, 6)
#undef S

/* The digest (32 bytes) of `size` bytes. */
static void ee_sha256(const void *data, size_t size, unsigned char out[32]) {
  const unsigned char *p = data;
  const uint64_t bits = (uint64_t)size * 8;
  uint32_t h[8];
  unsigned char last[128] = {0};
  size_t left = size;
  for (int i = 0; i < 8; i++) h[i] = (uint32_t)(ee_sha_begin[i] >> 32);
  for (; left >= 64; left -= 64, p += 64) ee_sha256_block(h, p);
  if (left > 0) memcpy(last, p, left);
  last[left] = 0x80;
  const size_t blocks = left < 56 ? 1 : 2;
  for (size_t i = 0; i < 8; i++) last[64 * blocks - 1 - i] = (unsigned char)(bits >> 8 * i);
  for (size_t i = 0; i < blocks; i++) ee_sha256_block(h, last + 64 * i);
  for (int i = 0; i < 32; i++) out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* The digest (64 bytes) of three pieces of bytes in a row, as Ed25519 hashes them. */
static void ee_sha512(const ee_bytes pieces[3], unsigned char out[64]) {
  uint64_t h[8], size = 0;
  unsigned char block[128];
  size_t used = 0;
  memcpy(h, ee_sha_begin, sizeof h);
  for (int piece = 0; piece < 3; piece++) {
    size += pieces[piece].size;
    for (size_t at = 0; at < pieces[piece].size;) {
      const size_t rest = pieces[piece].size - at, part = rest < 128 - used ? rest : 128 - used;
      memcpy(block + used, pieces[piece].data + at, part);
      at += part;
      used += part;
      if (used == 128) ee_sha512_block(h, block), used = 0;
    }
  }
  block[used++] = 0x80;
  if (used > 112) {
    memset(block + used, 0, 128 - used);
    ee_sha512_block(h, block);
    used = 0;
  }
  memset(block + used, 0, 128 - used);
  for (size_t i = 0; i < 8; i++) block[127 - i] = (unsigned char)(size * 8 >> 8 * i);
  ee_sha512_block(h, block);
  for (int i = 0; i < 64; i++) out[i] = (unsigned char)(h[i / 8] >> (56 - 8 * (i % 8)));
}

/* 64 hexadecimal digits, as hashes stand in manifests. */
static bool ee_sha256_is(const void *data, size_t size, const char *digits) {
  static const char hex[] = "0123456789abcdef";
  unsigned char digest[32];
  ee_sha256(data, size, digest);
  for (int i = 0; i < 32; i++)
    if (digits[2 * i] != hex[digest[i] >> 4] || digits[2 * i + 1] != hex[digest[i] & 15]) return false;
  return true;
}
