// The disk of the context cache without fsync(): power never fails in a test, and a loaded machine takes half a second
// for each.
#pragma once

#include "cache/disk.h"

namespace hadal::testing {

class FastDisk : public cache::Disk {
 public:
  int fsync(int) override { return 0; }
};

inline cache::Disk& fast_disk() {
  static FastDisk disk;
  return disk;
}

}  // namespace hadal::testing
