# hadal: `make run` talks to a model, `make test` proves the build. Both install what is missing (Debian 12).
# `make trainer` and `make test-trainer`: the same with the trainer, which needs libtorch.
.PHONY: build run serve test test-web test-clients test-agents trainer test-trainer quick check verify-all verify-random long-run load-test install asan tsan bench fuzz format clean deps trainer-deps

PACKAGES = g++ cmake ninja-build pkg-config libfmt-dev libcli11-dev libedit-dev libssl-dev libboost1.81-dev zlib1g-dev libxxhash-dev libsqlite3-dev libcurl4-openssl-dev libgtest-dev \
           python3 python3-numpy json-schema-test-suite
TRAINER_PACKAGES = libtorch-dev libopenblas0-pthread libgloo-dev
PREFIX ?= /usr/local
SECONDS ?= 60
MODEL ?= models/hadal-nano
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

build: build/release/build.ninja
	cmake --build --preset release --target hadal

# Installs only the packages that are not there.
deps: WANTED = $(PACKAGES)
trainer-deps: WANTED = $(PACKAGES) $(TRAINER_PACKAGES)
deps trainer-deps:
	@missing=$$(for p in $(WANTED); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; fi

build/trainer/build.ninja: | trainer-deps
build/%/build.ninja: CMakeLists.txt CMakePresets.json cmake/hadal.cmake src/layers.txt | deps
	cmake --preset $* >/dev/null

run: build
	@build/release/hadal chat -m $(MODEL)

serve: build
	@build/release/hadal serve -m $(MODEL)

test: build/release/build.ninja
	cmake --build --preset release
	ctest --preset release

# The trainer: the same program with `hadal train`, on libtorch.
trainer: build/trainer/build.ninja
	cmake --build --preset trainer --target hadal

test-trainer: build/trainer/build.ninja
	cmake --build --preset trainer
	ctest --preset trainer

# The web page, driven in Chromium. SHOTS=DIR keeps pictures.
test-web: build
	@missing=$$(command -v chromium >/dev/null || echo chromium; command -v npm >/dev/null || echo npm); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; fi
	@cd tests/web && { [ -d node_modules ] || npm ci --silent --no-audit --no-fund --omit-lockfile-registry-resolved; }
	node tests/web/page_test.mjs build/release/hadal models/hadal-nano $(SHOTS)

quick: build/release/build.ninja
	cmake --build --preset release
	ctest --preset release -LE "integration|cli"

check:
	tools/check_includes.sh
	clang-format-14 --dry-run -Werror $$(git ls-files '*.h' '*.cpp')

verify-all: build
	tools/verify_all.sh

# Fifty random architectures and a wide one against the oracle.
verify-random: build
	/usr/bin/python3 tools/check_random.py build/release/hadal $(ORACLE) --count 50
	/usr/bin/python3 tools/check_random.py build/release/hadal $(ORACLE) --wide
ORACLE ?= ../shared/golden/oracle.py

long-run: build/release/build.ninja
	cmake --build --preset release --target model_long_run_test
	HADAL_LONG_TOKENS=200000 build/release/tests/model_long_run_test

# A minute of 64 streams beside 500 idle connections, and a thousand good and bad requests (docs/benchmarks.md).
load-test: build/release/build.ninja
	cmake --build --preset release --target serve_load_test
	HADAL_LOAD_SECONDS=60 HADAL_LOAD_REQUESTS=1000 build/release/tests/serve_load_test

# The official SDKs of OpenAI, Anthropic, Vercel and LangChain against a running server (docs/serving.md).
test-clients test-agents: PACKAGES += $(if $(shell command -v npm),,nodejs npm)
test-clients: build/release/build.ninja
	cmake --build --preset release --target stand_in
	cd tests/clients && npm ci --no-audit --no-fund --silent && node --test --test-reporter=spec clients.test.mjs

# Claude Code, Codex and opencode, a two-step tool loop each; 1 GB of packages in build/agents.
AGENTS = @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 opencode-ai@1.18.33
test-agents: build/release/build.ninja
	cmake --build --preset release --target stand_in
	npm install --prefix build/agents --no-audit --no-fund --silent $(AGENTS)
	cd tests/clients && AGENTS=$(CURDIR)/build/agents node --test --test-reporter=spec agents.test.mjs

install: build
	cmake --install build/release --prefix $(PREFIX)

asan tsan: %: build/%/build.ninja
	cmake --build --preset $@
	ctest --preset $@ -LE integration

bench: build
	@[ -e $(BENCH_MODEL)/config.json ] || build/release/hadal synth --config flash-bench -o $(BENCH_MODEL)
	build/release/hadal bench -m $(BENCH_MODEL)
BENCH_MODEL ?= build/flash-bench

fuzz: build/fuzz/build.ninja
	cmake --build --preset fuzz
	@for target in build/fuzz/fuzz_*; do [ -x $$target -a ! -d $$target ] || continue; \
	  echo "== $$target"; name=$$(basename $$target); seeds=; [ -d fuzz/corpus/$$name ] && seeds=../../fuzz/corpus/$$name; \
	  mkdir -p build/fuzz/corpus/$$name; \
	  (cd build/fuzz && ./$$name corpus/$$name $$seeds -max_total_time=$(SECONDS) -verbosity=0 -print_final_stats=0) || exit 1; done

format:
	clang-format-14 -i $$(git ls-files '*.h' '*.cpp')

clean:
	rm -rf build
