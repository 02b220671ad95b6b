// -m DIR, the same for every command that needs a model.
#pragma once

#include <string>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace hadal::cli {

// Without -m: $HADAL_MODEL, else the model that ships with the program (in the source tree or
// installed); wrong usage when there is none.
CLI::Option* add_model_option(CLI::App& command, std::string& directory);

}  // namespace hadal::cli
