// Words every module speaks.
#pragma once

#include <cstdint>

namespace hadal {

using TokenId = int32_t;

}  // namespace hadal
