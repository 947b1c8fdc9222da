/* Keys and values rounded to int8: divided by a 127th of the largest magnitude, a row's scale, to the nearest, ties to
 * even; so does pyattn.precision.to_int8. `width` features are read twice. */
#include <float.h>

#include "../kernels.h"

static void round_row(const char *features, ptrdiff_t width, char *rounded, float *scale) {
  vec most = {0}, zeros = {0}; /* x * 0 is NaN for NaN and inf */
  for (ptrdiff_t d = 0; d < width; d += LANES) {
    const vec x = load_elements(features + d * ELEMENT_BYTES, width - d);
    most = vmax(magnitude(x), most);
    zeros += x * 0;
  }
  const int finite = sum_lanes(zeros) == 0;
  const real unit = max_lanes(most) / 127, known = unit < FLT_MIN ? 0 : unit; /* a denormal one is not exact enough */
  const vec divisor = splat(known > 0 ? known : INFINITY), counts = splat(0x1.8p23f); /* whose last bit counts ones */
  for (ptrdiff_t d = 0; d < width; d += LANES) {
    const vec x = finite ? load_elements(features + d * ELEMENT_BYTES, width - d) / divisor : (vec){0};
    const ivec ones = (ivec)(x + counts) - (ivec)counts;
    int8_t y[LANES];
    UNROLL for (int i = 0; i < LANES; i++) y[i] = (int8_t)ones[i];
    memcpy(rounded + d, y, (size_t)least(width - d, LANES));
  }
  *scale = finite ? known : (float)NAN;
}
