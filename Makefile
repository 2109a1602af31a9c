# SPDX-License-Identifier: MIT
BUILD ?= build
CC ?= gcc
VERSION := 0.1.0

CPPFLAGS += -D_GNU_SOURCE -DNNG_VERSION_STRING='"$(VERSION)"'
WARN := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes \
        -Wpointer-arith -Wcast-qual -Wwrite-strings -Wformat=2 -Wundef -Wvla -Wnull-dereference
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu17 $(WARN)

SO_CFLAGS := -fPIC -fvisibility=hidden -ftls-model=initial-exec -fno-plt -U_FORTIFY_SOURCE \
             -fno-stack-protector -fno-builtin-printf -fno-asynchronous-unwind-tables
SO_LDFLAGS := -shared -Wl,-z,now,-z,relro,-z,defs,-z,nodelete -Wl,--version-script=shim/preload/exports.map \
              -Wl,--no-as-needed -l:libdl.so.2 -Wl,--as-needed

SO_SRC := $(wildcard shim/preload/*.c) shim/journal/append.c
BIN_SRC := $(wildcard shim/monitor/*.c shim/causes/*.c shim/report/*.c shim/cli/*.c probes/*.c) \
           shim/journal/append.c shim/journal/snapshot.c
SO_OBJ := $(SO_SRC:%.c=$(BUILD)/so/%.o)
BIN_OBJ := $(BIN_SRC:%.c=$(BUILD)/bin/%.o)
BIN_LIBS := -l:libjansson.a -l:libpcre2-8.a -lunwind-ptrace -lunwind-generic -lunwind -llzma -lpthread

all: $(BUILD)/libnnguard.so $(BUILD)/nnguard

$(BUILD)/libnnguard.so: $(SO_OBJ) shim/preload/exports.map
	$(CC) $(SO_CFLAGS) $(SO_OBJ) $(SO_LDFLAGS) -o $@.tmp && mv -f $@.tmp $@

$(BUILD)/nnguard: $(BIN_OBJ)
	$(CC) -static $(BIN_OBJ) $(BIN_LIBS) -o $@.tmp && mv -f $@.tmp $@

$(BUILD)/so/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(SO_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/bin/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

-include $(SO_OBJ:.o=.d) $(BIN_OBJ:.o=.d)

clean:
	rm -rf $(BUILD)/so $(BUILD)/bin $(BUILD)/libnnguard.so $(BUILD)/nnguard

.PHONY: all clean
