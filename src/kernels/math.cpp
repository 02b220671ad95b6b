#include "kernels/math.h"

#include <cmath>

namespace hadal::kernels {
namespace {

double exp_f64(double x) {  // |x| < 700
  const double n = std::floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double term = 1, sum = 1;
  for (int i = 1; i <= 16; ++i) {
    term = term * r / i;
    sum += term;
  }
  return std::ldexp(sum, static_cast<int>(n));
}

double log_f64(double x) {  // x > 0: log m + e ln 2 with m in [sqrt(1/2), sqrt 2), by atanh's series
  int e = 0;
  double m = std::frexp(x, &e);
  if (m < 0.70710678118654752440) {
    m *= 2;
    --e;
  }
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double power = s, sum = 0;
  for (int i = 1; i <= 41; i += 2) {
    sum += power / i;
    power *= s2;
  }
  return 2 * sum + e * 0.693147180559945309417;
}

// log(1 + y) for y >= 0, correct for tiny y (Kahan's correction of the rounding in 1 + y).
double log1p_f64(double y) {
  const double u = 1 + y;
  return u == 1 ? y : log_f64(u) * (y / (u - 1));
}

}  // namespace

float sqrt_softplus(float a) {
  if (a != a) return a;  // the series would turn it into an integer
  const double softplus = a > 20.0f ? a : a < -600.0f ? 0.0 : log1p_f64(exp_f64(a));
  return static_cast<float>(std::sqrt(softplus));
}

}  // namespace hadal::kernels
