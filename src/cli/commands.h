// The subcommands of hadal: each adds itself to the app and, when chosen, runs and sets the exit status
// (0 done, 1 failed, 2 wrong usage).
#pragma once

namespace CLI {
class App;
}

namespace hadal::cli {

void add_bench(CLI::App& app, int& exit_status);
void add_cache(CLI::App& app, int& exit_status);
void add_chat(CLI::App& app, int& exit_status);
void add_data(CLI::App& app, int& exit_status);
void add_encode(CLI::App& app, int& exit_status);
void add_eval(CLI::App& app, int& exit_status);
void add_inspect(CLI::App& app, int& exit_status);
void add_key(CLI::App& app, int& exit_status);
void add_parse(CLI::App& app, int& exit_status);
void add_quantize(CLI::App& app, int& exit_status);
void add_run(CLI::App& app, int& exit_status);
void add_serve(CLI::App& app, int& exit_status);
void add_synth(CLI::App& app, int& exit_status);
void add_tokenize(CLI::App& app, int& exit_status);
void add_train(CLI::App& app, int& exit_status);
void add_usage(CLI::App& app, int& exit_status);
void add_verify(CLI::App& app, int& exit_status);

}  // namespace hadal::cli
