// Checks of our own invariants. HADAL_CHECK is on in every build; HADAL_DCHECK only with HADAL_DEBUG (dev
// and sanitizer presets), for inner loops. Never used on the content of files or requests: those are
// Results (base/result.h).
#pragma once

namespace hadal {
[[noreturn]] void check_failed(const char* expression, const char* file, int line);
}

#define HADAL_CHECK(condition) \
  (static_cast<bool>(condition) ? void() : ::hadal::check_failed(#condition, __FILE__, __LINE__))
#ifdef HADAL_DEBUG
#define HADAL_DCHECK(condition) HADAL_CHECK(condition)
#else
#define HADAL_DCHECK(condition) void()
#endif
