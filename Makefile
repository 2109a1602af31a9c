# SPDX-License-Identifier: MIT
#
# nnguard's only entry for building and testing. Everything made lands under $(BUILD), the Python
# environments of the tests under build/ whatever BUILD is, because they are large and the same.
#
#   make                     build/libnnguard.so and build/nnguard
#   make setup               install what building needs (scripts/setup.sh)
#   make check               set-up, unit, faults, trainer, CPython's own tests
#   make lint                compilers, linters and the project's own rules
#   make demo | bench | fuzz | check-cpython | check-latest | format | install | clean
BUILD ?= build
CC ?= gcc
CLANG ?= clang
PREFIX ?= /usr/local
VERSION := 0.1.0

CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
        -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings -Wformat=2 -Wundef -Wvla \
        -Wnull-dereference
ALL_CPPFLAGS = -D_GNU_SOURCE -DNNG_VERSION_STRING='"$(VERSION)"' $(CPPFLAGS)
ALL_CFLAGS = -std=gnu17 $(WARN) $(CFLAGS) $(WERROR)

# Unwind tables: a crash's stack leads through our frames (the hook of abort, the waiting handler).
# No fortify and no stack protector: both would import symbols that the trainer's libc may not have.
SO_CFLAGS := -fPIC -fvisibility=hidden -ftls-model=initial-exec -fno-plt -U_FORTIFY_SOURCE \
             -fno-stack-protector -fno-builtin-printf -fasynchronous-unwind-tables
# Every program under an exported LD_PRELOAD pays for the loading, 0.1 ms at most: no libdl (bind.c
# finds the real functions), no start files (nothing of theirs is used), two segments instead of four,
# and no relro, whose mprotect alone costs 14 us.
SO_LDFLAGS := -shared -nostartfiles -Wl,-z,now,-z,norelro,-z,defs,-z,nodelete,-z,noseparate-code \
              -Wl,--hash-style=gnu -Wl,--version-script=shim/preload/exports.map

SO_SRC := $(sort $(wildcard shim/preload/*.c)) shim/journal/append.c
BIN_SRC := $(sort $(wildcard shim/monitor/*.c shim/causes/*.c shim/report/*.c shim/cli/*.c \
             probes/*.c)) shim/journal/append.c shim/journal/snapshot.c
SO_OBJ := $(SO_SRC:%.c=$(BUILD)/so/%.o)
BIN_OBJ := $(BIN_SRC:%.c=$(BUILD)/bin/%.o)
# What a unit test may call: the whole program but its main.
PART_OBJ := $(filter-out $(BUILD)/bin/shim/cli/main.o,$(BIN_OBJ))
BIN_LIBS := -l:libjansson.a -l:libpcre2-8.a -lunwind-ptrace -lunwind-generic -lunwind -llzma -lpthread

UNIT_SRC := $(sort $(wildcard test/unit/test_*.c))
UNIT_BIN := $(UNIT_SRC:test/unit/%.c=$(BUILD)/unit/%)
VICTIM_SRC := $(sort $(wildcard test/faults/victims/*.c))
VICTIM_BIN := $(VICTIM_SRC:test/faults/victims/%.c=$(BUILD)/victims/%)
FUZZ_SRC := $(sort $(wildcard test/fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZ_SRC:test/fuzz/%.c=$(BUILD)/fuzz/%)

all: $(BUILD)/libnnguard.so $(BUILD)/nnguard

# Written beside and renamed: a trainer that is running may have the old file mapped.
$(BUILD)/libnnguard.so: $(SO_OBJ) shim/preload/exports.map
	$(CC) $(SO_CFLAGS) $(CFLAGS) $(SO_OBJ) $(SO_LDFLAGS) $(LDFLAGS) -o $@.tmp && mv -f $@.tmp $@

$(BUILD)/nnguard: $(BIN_OBJ)
	$(CC) $(CFLAGS) -static $(BIN_OBJ) $(BIN_LIBS) $(LDFLAGS) -o $@.tmp && mv -f $@.tmp $@

# make lint sets STACK: what a signal handler can reach has 1 KiB a frame; what runs only at start or
# in a call that makes shared memory, more.
STACK_LIMIT = 1024
$(patsubst %,$(BUILD)/so/shim/preload/%.o,start root bind ids launch): STACK_LIMIT = 8192
$(patsubst %,$(BUILD)/so/shim/preload/%.o,rescue rescue_promise rescue_room rescue_sem rescue_sole): STACK_LIMIT = 2048
$(BUILD)/so/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(SO_CFLAGS) $(if $(STACK),-Wstack-usage=$(STACK_LIMIT)) -MMD -MP -c $< -o $@

$(BUILD)/bin/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# libunwind.a is not position-independent, hence -no-pie.
$(BUILD)/unit/%: test/unit/%.c $(PART_OBJ)
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) -I. $(ALL_CFLAGS) -no-pie -MMD -MP -MF $@.d $< $(PART_OBJ) \
	  $(BIN_LIBS) -lcmocka $(LDFLAGS) -o $@

$(BUILD)/victims/%: test/faults/victims/%.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 -O1 -g $< -pthread -o $@

unit-programs: $(UNIT_BIN)
victims: $(VICTIM_BIN)

-include $(SO_OBJ:.o=.d) $(BIN_OBJ:.o=.d) $(UNIT_BIN:=.d)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(BUILD)/nnguard $(DESTDIR)$(PREFIX)/bin/nnguard
	install -m 755 $(BUILD)/libnnguard.so $(DESTDIR)$(PREFIX)/lib/libnnguard.so

# ---- tests ------------------------------------------------------------------------------------
# Everything is built before the driver starts, so that no test's time contains a compiler's.
RUN = test/run --build $(BUILD)
SAN_CFLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined

setup:
	scripts/setup.sh build

test-setup:
	scripts/setup.sh test

trainer-setup:
	scripts/setup.sh trainer

unit: unit-programs unit-san
	$(RUN) unit

unit-san:
	$(MAKE) BUILD=$(BUILD)/san CFLAGS="$(SAN_CFLAGS)" unit-programs

faults: test-setup
	$(MAKE) all victims
	$(RUN) faults

trainer: trainer-setup
	$(MAKE) all victims
	$(RUN) trainer

check: trainer-setup
	$(MAKE) all victims unit-programs unit-san
	$(RUN) unit faults trainer cpython

check-cpython: test-setup
	$(MAKE) all
	$(RUN) cpython-full

check-latest:
	scripts/setup.sh latest
	$(MAKE) all victims
	$(RUN) latest

lint:
	scripts/setup.sh lint
	scripts/lint.sh $(BUILD)/lint

bench: trainer-setup
	$(MAKE) all
	build/venv/bin/python test/bench/bench.py --build $(BUILD)

demo: trainer-setup
	$(MAKE) all victims
	BUILD=$(BUILD) scripts/demo.sh

# ---- fuzzing ----------------------------------------------------------------------------------
FUZZ_S ?= 30
FUZZ_CFLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined

$(BUILD)/fuzz/%: test/fuzz/%.c $(PART_OBJ)
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) -I. $(ALL_CFLAGS) -fsanitize=fuzzer -no-pie $< $(PART_OBJ) $(BIN_LIBS) \
	  -o $@

fuzz-programs: $(FUZZ_BIN)

fuzz:
	scripts/setup.sh lint
	$(MAKE) BUILD=$(BUILD)/fuzzing CC=$(CLANG) CFLAGS="$(FUZZ_CFLAGS)" fuzz-programs
	scripts/fuzz.sh $(BUILD)/fuzzing/fuzz $(FUZZ_S)

# ---- housekeeping -----------------------------------------------------------------------------
C_FILES = $(shell git ls-files '*.c' '*.h')

format:
	clang-format -i $(C_FILES)

# The Python environments stay: they take minutes to make. `make distclean` removes them too.
clean:
	rm -rf $(addprefix $(BUILD)/,so bin san fuzzing unit victims lint bench libnnguard.so nnguard)

distclean: clean
	rm -rf build

.DELETE_ON_ERROR:
.PHONY: all setup test-setup trainer-setup unit-programs unit-san victims install unit faults trainer \
        check check-cpython check-latest lint bench demo fuzz-programs fuzz format clean distclean
