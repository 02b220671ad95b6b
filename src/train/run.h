// What `hadal train` calls: the trainer without libtorch's headers.
#pragma once

#include <string>

#include "base/result.h"

namespace hadal::train {

struct RunOptions {
  std::string run_file;    // docs/training.md
  std::string directory;   // log, states, exported model
  std::string from;        // a checkpoint to start from instead of an initialisation; "" for none
  double max_seconds = 0;  // then save and stop; 0: no limit
  int ranks = 1;           // processes that share each step's rows
  int threads = 1;         // of each process
  bool restart = false;    // remove what an earlier run left in `directory`
};

// Trains to the end of the run, or to the limit, a signal (SIGTERM and SIGINT finish the step and
// save) or an error. Resumes from the newest state in the directory. Progress goes to stderr.
Status run(const RunOptions& options);

// Where OpenBLAS takes this processor for an older one, starts this program again with
// OPENBLAS_CORETYPE set: the variable is read while libraries are loaded. Returns when there is
// nothing to do.
void restart_with_blas_core();

// One HTML page of the curves of directory/log.jsonl.
Status write_curves(const std::string& directory, const std::string& output);

}  // namespace hadal::train
