// The part of Envoy's ABI for dynamic modules that this module uses, in its own
// words. The functions and what they do are documented with Envoy, in
// source/extensions/dynamic_modules/abi/abi.h; filter.TestedABIs names the versions.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The executable of Envoy has these functions. They are weak, so that the library links
// without it, with any linker, and loads where one is missing.
#define ENVOYS __attribute__((weak))

// A piece of memory: Envoy's if Envoy passes it, and then good until the hook
// returns or the headers change; ours if we pass it, and copied by Envoy.
typedef struct { const char *at; size_t size; } jwtb_text;
typedef struct { jwtb_text name, value; } jwtb_header;

enum { jwtb_request_headers = 0 };

// What a hook tells Envoy to do with the request. "Stop" (1) holds back the headers
// alone: the body passes, and takes the headers with it to the upstream. A request
// that waits for its decision therefore needs "stop everything".
enum { jwtb_continue = 0, jwtb_stop = 1, jwtb_stop_everything = 4 };

// Attributes of a request that are strings.
enum {
  jwtb_protocol = 10, jwtb_destination_address = 26,
  jwtb_server_name = 30, jwtb_tls_version = 31,
  jwtb_local_subject = 32, jwtb_peer_subject = 33, jwtb_local_dns = 34, jwtb_peer_dns = 35,
  jwtb_local_uri = 36, jwtb_peer_uri = 37, jwtb_peer_sha256 = 38,
};

bool envoy_dynamic_module_callback_is_validation_mode(void) ENVOYS;
uint32_t envoy_dynamic_module_callback_get_concurrency(void) ENVOYS; // on the main thread
size_t envoy_dynamic_module_callback_http_get_headers_size(void *stream, int kind) ENVOYS;
bool envoy_dynamic_module_callback_http_get_headers(void *stream, int kind, jwtb_header *into) ENVOYS;
bool envoy_dynamic_module_callback_http_set_header(void *stream, int kind, jwtb_text name, jwtb_text value) ENVOYS; // value.at NULL: remove
void envoy_dynamic_module_callback_http_send_response(void *stream, uint32_t status, jwtb_header *headers, size_t count, jwtb_text body, jwtb_text details) ENVOYS;
bool envoy_dynamic_module_callback_http_filter_get_attribute_string(void *stream, int attribute, jwtb_text *into) ENVOYS;
void envoy_dynamic_module_callback_http_filter_continue_decoding(void *stream) ENVOYS;
void *envoy_dynamic_module_callback_http_filter_scheduler_new(void *stream) ENVOYS;
void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *scheduler, uint64_t event) ENVOYS;
void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *scheduler) ENVOYS;
// Since Envoy 1.40; NULL in older ones. The address of the connection's peer, ip:port.
// The attribute source.address (24) is another: with use_remote_address false, as is
// Envoy's default, the client writes that in x-forwarded-for.
bool envoy_dynamic_module_callback_http_get_downstream_direct_remote_address(void *stream, jwtb_text *into) ENVOYS;
void envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(void *stream, jwtb_text space, jwtb_text value) ENVOYS;

// Since Envoy 1.39; never called. It tells an Envoy that knows the server name.
void envoy_dynamic_module_callback_get_log_level(void) ENVOYS;

// One stream, from filter_new to filter_destroy.
typedef struct {
  void *stream;     // Envoy's
  uintptr_t config; // Go's handle of the configuration
  uintptr_t kept;   // Go's handle of what the stream waits for; 0: nothing
} jwtb_filter;

// jwtb_apply carries out a plan (envoy/plan.go) and returns true if the request may
// pass. After false a reply has been sent or the stream was reset, and it may be gone.
bool jwtb_apply(void *stream, const char *plan, size_t size);
