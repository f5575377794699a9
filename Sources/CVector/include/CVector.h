// Sixteen bytes at a time: each function is what Swift cannot say, a comparison of a vector whose outcome is wanted as
// the bits of a number. No logic: who calls them decides what the bits mean.
#ifndef HEADFIRST_CVECTOR_H
#define HEADFIRST_CVECTOR_H

#include <stdint.h>

#if defined(__SSE2__)
#include <emmintrin.h>

/// A bit for each of sixteen bytes that is `byte`.
static inline __attribute__((always_inline)) uint32_t headfirst_equal16(const uint8_t *bytes, uint8_t byte) {
    __m128i vector = _mm_loadu_si128((const __m128i *)bytes);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(vector, _mm_set1_epi8((char)byte)));
}

/// A bit for each of sixteen bytes that is less than 0x20, or 0x7F.
static inline __attribute__((always_inline)) uint32_t headfirst_control16(const uint8_t *bytes) {
    __m128i vector = _mm_loadu_si128((const __m128i *)bytes);
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(vector, _mm_set1_epi8(0x1F)), vector);
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(vector, _mm_set1_epi8(0x7F))));
}
#endif

#endif
