# The control socket's C declarations: csrc/control_socket.h.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "sys/types.h" nogil:
    ctypedef int gid_t
    ctypedef int uid_t
    ctypedef int pid_t
    ctypedef int mode_t
    ctypedef long ssize_t

cdef extern from "control_socket.h" nogil:
    enum:
        VLAD_CONTROL_MAX_CLIENTS
        VLAD_CONTROL_MAX_GIDS
        VLAD_CONTROL_MAX_LINE
        VLAD_CONTROL_MAX_REPLY
        VLAD_CC_N
        VLAD_LOWER_HOLD
    ctypedef void (*vlad_lower_fn)(void *context, uint32_t lower)
    struct vlad_control_config:
        const char *path
        mode_t mode
        const gid_t *operator_gids
        size_t n_operator_gids
        int max_clients
        vlad_lower_fn lower
        void *lower_context
        int64_t half_open_ns
        int64_t stalled_ns
    enum vlad_control_counter:
        pass
    const char **vlad_control_counter_name
    struct vlad_control_request:
        uint64_t token
        uint64_t lower_epoch
        int64_t t_ns
        uid_t uid
        gid_t gid
        pid_t pid
        bint is_operator "operator"
    struct vlad_control_lowered:
        int64_t t_ns
        uint32_t lower
        uid_t uid
        pid_t pid
    struct vlad_control_socket:
        pass
    int vlad_control_socket_start(vlad_control_socket **, const vlad_control_config *)
    void vlad_control_socket_stop(vlad_control_socket *)
    void vlad_control_socket_free(vlad_control_socket *)
    ssize_t vlad_control_socket_next(vlad_control_socket *, int, vlad_control_request *, char *)
    int vlad_control_socket_reply(vlad_control_socket *, uint64_t, const char *, size_t)
    uint64_t vlad_control_socket_counter(vlad_control_socket *, vlad_control_counter)
    unsigned vlad_control_socket_clients(vlad_control_socket *)
    uint64_t vlad_control_socket_lower_epoch(vlad_control_socket *)
    void vlad_control_socket_lowered(vlad_control_socket *, vlad_control_lowered *)
    bint vlad_control_socket_next_lowered(vlad_control_socket *, vlad_control_lowered *)
    int64_t vlad_control_socket_beat_ns(vlad_control_socket *)

cdef extern from "json_verb.h" nogil:
    enum vlad_line_error:
        pass
    enum vlad_verb:
        VLAD_VERB_OTHER
        VLAD_VERB_HOLD
        VLAD_VERB_LIMP
    struct vlad_line:
        vlad_verb verb
        const char *id
        size_t id_size
        size_t error_at
    vlad_line_error vlad_json_verb(const char *, size_t, vlad_line *)
    const char *vlad_line_error_text(vlad_line_error)
