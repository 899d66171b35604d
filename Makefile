# make demo: set up, build, run the demonstration. make test: set up, build, pass all tests.
.PHONY: demo test build setup interop arm install
demo: build
	build/squint demo

test: build
	meson test -C build --no-rebuild --print-errorlogs

build: setup
	test -f build/build.ninja || meson setup build
	ninja -C build
	ln -sf cli/squint build/squint

setup:
	tools/setup.sh

# Needs Python with torch and transformers: tests/interop/README.md.
interop: build
	tests/interop/run.sh build/squint

# Built for 64-bit ARM and tested under an emulator; says which packages it needs. TESTS=all: every test.
arm:
	tools/arm.sh $(TESTS)

install: build
	meson install -C build
