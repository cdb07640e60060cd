# libFuzzer targets: tests/fuzz_*.c, each run for SECONDS, or RUNS times; needs clang and its fuzzer runtime.
#
#   make -C csrc fuzz-feetech SECONDS=60
#   make -C csrc fuzz                      all of them
# What a target finds interesting is kept in ../build/fuzz/NAME and tried first the next time, with
# the seeds of ../tests/fuzz/corpus/NAME.
FUZZ_CC ?= clang-14
SECONDS ?= 20
LIMIT := $(if $(RUNS),-runs=$(RUNS),-max_total_time=$(SECONDS))
FUZZ_OUT := ../build/fuzz
FUZZ := $(patsubst tests/fuzz_%.c,%,$(wildcard tests/fuzz_*.c))
FUZZ_FLAGS := -std=gnu11 -g -O1 -I. -Wall -Wextra -Wshadow -Wconversion -Werror \
	-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all

.PHONY: fuzz $(FUZZ:%=fuzz-%)
fuzz: $(FUZZ:%=fuzz-%)
$(FUZZ_OUT)/fuzz_%: tests/fuzz_%.c $(CORE) $(wildcard *.h)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -pthread $< $(CORE) -lm -o $@
$(FUZZ:%=fuzz-%): fuzz-%: $(FUZZ_OUT)/fuzz_%
	@mkdir -p $(FUZZ_OUT)/$*
	$< $(LIMIT) -max_len=512 -print_final_stats=1 $(FUZZ_ARGS) $(FUZZ_OUT)/$* \
		$(wildcard ../tests/fuzz/corpus/$*)
