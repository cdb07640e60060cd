# Model checking: tests/model_*.c, each a few threads over the C core, in every execution. The core
# is compiled as for ThreadSanitizer and linked with model/*.c in its place: see model/model.h.
#
#   make -C csrc model                  all of them, small
#   make -C csrc model ARGS=full        all of them, in full
#   make -C csrc seeded SEEDED=DIR MODEL=model_queue SOURCE=action_queue.c
#                                       builds DIR/model_queue with DIR/action_queue.c instead
MODEL_OUT := $(OUT)/model
MODELS := $(patsubst tests/%.c,%,$(wildcard tests/model_*.c))
CHECKER := $(patsubst %.c,$(MODEL_OUT)/%.o,$(wildcard model/*.c))
MODEL_FLAGS := -O1 -fsanitize=thread -Wno-tsan -Imodel -Itests \
	$(foreach f,memcpy memmove memset memcmp,-D$(f)=model_$(f))

# The test sees what a tick took.
LINK_model_servo := -Wl,--wrap=vlad_servo_decide

.PHONY: model seeded $(MODELS:%=run/model/%)
.PRECIOUS: $(MODEL_OUT)/%.o $(MODEL_OUT)/tests/%.o $(MODEL_OUT)/model_%
model: $(MODELS:%=run/model/%)
$(MODEL_OUT)/model/%.o: model/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -O2 -Imodel -MMD -c $< -o $@
$(MODEL_OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(MODEL_FLAGS) -MMD -c $< -o $@
$(MODEL_OUT)/libvladcore.a: $(CORE:%.c=$(MODEL_OUT)/%.o)
	@rm -f $@
	ar rcs $@ $^
$(MODEL_OUT)/model_%: $(MODEL_OUT)/tests/model_%.o $(CHECKER) $(MODEL_OUT)/libvladcore.a
	$(CC) $^ $(LINK_$(@F)) -lm -o $@
$(MODELS:%=run/model/%): run/model/%: $(MODEL_OUT)/%
	$< $(ARGS)

# The object of the replaced file comes before the archive; a replaced header before ours.
SEEDED_SOURCES := tests/$(MODEL).c $(wildcard $(SEEDED)/*.c)
seeded: $(CHECKER) $(MODEL_OUT)/libvladcore.a
	set -e; for source in $(SEEDED_SOURCES); do \
		$(CC) -I$(SEEDED) $(CFLAGS) $(MODEL_FLAGS) -c $$source \
			-o $(SEEDED)/$$(basename $$source .c).o; done
	$(CC) $(SEEDED)/*.o $(CHECKER) $(MODEL_OUT)/libvladcore.a $(LINK_$(MODEL)) -lm \
		-o $(SEEDED)/$(MODEL)
-include $(wildcard $(MODEL_OUT)/*.d $(MODEL_OUT)/*/*.d)
