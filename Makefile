# The doors to Foretaste. `make demo` and `make test` work on a fresh Debian machine that has Swift 6.
.PHONY: all setup build demo test bench chaos lint format clean

all: build

setup:
	@scripts/install-system-packages

build: setup
	swift build -c release

demo: build
	.build/release/foretaste demo $(DEMO)

test: build
	@scripts/run-tests $(TEST)

bench: build
	@Tests/Performance/bench
	@Tests/Performance/bench queue
	@Tests/Performance/bench ingest

chaos: build
	@.build/release/Chaos $(CHAOS)

lint:
	swift format lint --strict --recursive --configuration .swift-format Shared Services Tests migrations Package.swift

format:
	swift format --in-place --recursive --configuration .swift-format Shared Services Tests migrations Package.swift

clean:
	rm -rf .build
