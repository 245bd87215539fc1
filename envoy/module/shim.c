// The hooks of Envoy's ABI. Nothing here decides about a request: the shim gathers
// what a decision needs into one buffer, calls Go once, and carries out Go's plan.
#include "abi.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char *jwtbInit(void);
extern uintptr_t jwtbConfigNew(const char *text, size_t size);
extern void jwtbConfigDestroy(uintptr_t config);
extern int jwtbRequest(jwtb_filter *filter, const char *request, size_t size);
extern void jwtbScheduled(void *stream, uintptr_t kept);
extern void jwtbDestroy(uintptr_t kept);

#define TEXT(literal) ((jwtb_text){literal, sizeof literal - 1})

// buffer is a request on its way to Go: texts, each with its length in front.
typedef struct { char *at; size_t used, room; bool failed; } buffer;

static void put(buffer *b, jwtb_text t) {
  size_t need = b->used + sizeof(uint32_t) + t.size;
  if (b->failed || t.size > UINT32_MAX) { b->failed = true; return; }
  if (need > b->room) {
    size_t room = need < 2048 ? 4096 : need * 2;
    char *more = realloc(b->at, room);
    if (!more) { b->failed = true; return; }
    b->at = more;
    b->room = room;
  }
  uint32_t size = (uint32_t)t.size;
  memcpy(b->at + b->used, &size, sizeof size);
  if (t.size) memcpy(b->at + b->used + sizeof size, t.at, t.size);
  b->used = need;
}

static jwtb_text attribute(void *stream, int id) {
  jwtb_text t = {NULL, 0};
  if (!envoy_dynamic_module_callback_http_filter_get_attribute_string(stream, id, &t)) t = (jwtb_text){NULL, 0};
  return t;
}

// peer_address is empty if this Envoy cannot say whose it is.
static jwtb_text peer_address(void *stream) {
  jwtb_text t = {NULL, 0};
  if (!envoy_dynamic_module_callback_http_get_downstream_direct_remote_address ||
      !envoy_dynamic_module_callback_http_get_downstream_direct_remote_address(stream, &t)) t = (jwtb_text){NULL, 0};
  return t;
}

// principal is the first name of a certificate, in the order of ext_authz.
static jwtb_text principal(void *stream, int uri, int dns, int subject) {
  jwtb_text t = attribute(stream, uri);
  if (!t.size) t = attribute(stream, dns);
  if (!t.size) t = attribute(stream, subject);
  return t;
}

// The order of the attributes is that of filter.ParseRequest.
static void put_attributes(buffer *b, void *stream) {
  put(b, attribute(stream, jwtb_protocol));
  put(b, peer_address(stream));
  put(b, attribute(stream, jwtb_destination_address));
  const jwtb_text none = {NULL, 0};
  if (!attribute(stream, jwtb_tls_version).size) { // plain text
    for (int i = 0; i < 4; i++) put(b, none);
    return;
  }
  // Envoy 1.38 does not know the server name, and logs an error when it is asked.
  put(b, envoy_dynamic_module_callback_get_log_level ? attribute(stream, jwtb_server_name) : none);
  put(b, attribute(stream, jwtb_peer_sha256));
  put(b, principal(stream, jwtb_peer_uri, jwtb_peer_dns, jwtb_peer_subject));
  put(b, principal(stream, jwtb_local_uri, jwtb_local_dns, jwtb_local_subject));
}

static void put_headers(buffer *b, void *stream) {
  size_t n = envoy_dynamic_module_callback_http_get_headers_size(stream, jwtb_request_headers);
  jwtb_header *h = calloc(n ? n : 1, sizeof *h);
  if (!h || !envoy_dynamic_module_callback_http_get_headers(stream, jwtb_request_headers, h)) b->failed = true;
  for (size_t i = 0; i < n && !b->failed; i++) {
    put(b, h[i].name);
    put(b, h[i].value);
  }
  free(h);
}

// lacking is the first function that the module cannot do without and this Envoy does not have;
// NULL: there is none.
static const char *lacking(void) {
  const struct { const char *name; void (*function)(void); } needed[] = {
#define NEEDED(name) {#name, (void (*)(void))envoy_dynamic_module_callback_##name}
    NEEDED(is_validation_mode), NEEDED(get_concurrency),
    NEEDED(http_get_headers_size), NEEDED(http_get_headers), NEEDED(http_set_header), NEEDED(http_send_response),
    NEEDED(http_filter_get_attribute_string), NEEDED(http_filter_continue_decoding),
    NEEDED(http_filter_scheduler_new), NEEDED(http_filter_scheduler_commit), NEEDED(http_filter_scheduler_delete),
  };
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!needed[i].function) return needed[i].name;
  return NULL;
}

const char *envoy_dynamic_module_on_program_init(void) {
  const char *abi = jwtbInit(), *name = lacking();
  if (!abi || !name) return abi;
  fprintf(stderr, "jwt-bouncer: this Envoy lacks envoy_dynamic_module_callback_%s, so it cannot load this module\n", name);
  return NULL;
}

const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, jwtb_text name, jwtb_text config) {
  return (const void *)jwtbConfigNew(config.at, config.size);
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { jwtbConfigDestroy((uintptr_t)config); }

// If it returns NULL, Envoy replies 500.
const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *stream) {
  jwtb_filter *f = calloc(1, sizeof *f);
  if (f) *f = (jwtb_filter){stream, (uintptr_t)config, 0};
  return f;
}

void envoy_dynamic_module_on_http_filter_destroy(const void *filter) {
  jwtb_filter *f = (jwtb_filter *)filter;
  if (f->kept) jwtbDestroy(f->kept);
  free(f);
}

int envoy_dynamic_module_on_http_filter_request_headers(void *stream, const void *filter, bool end) {
  buffer b = {NULL, 0, 0, false};
  put_attributes(&b, stream);
  put_headers(&b, stream);
  if (b.failed) b.used = 0; // Go denies a request without headers
  int status = jwtbRequest((jwtb_filter *)filter, b.at, b.used);
  free(b.at);
  return status;
}

void envoy_dynamic_module_on_http_filter_scheduled(void *stream, const void *filter, uint64_t event) {
  jwtb_filter *f = (jwtb_filter *)filter;
  if (f->kept && f->kept == (uintptr_t)event) jwtbScheduled(stream, f->kept);
}

// While everything is stopped, Envoy calls none of these for the request.
int envoy_dynamic_module_on_http_filter_request_body(void *stream, const void *filter, bool end) { return 0; }
int envoy_dynamic_module_on_http_filter_request_trailers(void *stream, const void *filter) { return 0; }
int envoy_dynamic_module_on_http_filter_response_headers(void *stream, const void *filter, bool end) { return 0; }
int envoy_dynamic_module_on_http_filter_response_body(void *stream, const void *filter, bool end) { return 0; }
int envoy_dynamic_module_on_http_filter_response_trailers(void *stream, const void *filter) { return 0; }

// Envoy does not load a module without these; nothing leads to them here.
void envoy_dynamic_module_on_http_filter_stream_complete(void) {}
void envoy_dynamic_module_on_http_filter_http_callout_done(void) {}
void envoy_dynamic_module_on_http_filter_http_stream_headers(void) {}
void envoy_dynamic_module_on_http_filter_http_stream_data(void) {}
void envoy_dynamic_module_on_http_filter_http_stream_trailers(void) {}
void envoy_dynamic_module_on_http_filter_http_stream_complete(void) {}
void envoy_dynamic_module_on_http_filter_http_stream_reset(void) {}
void envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(void) {}
void envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(void) {}

// order is one part of a plan.
typedef struct { char code; jwtb_text name, value; } order;

// next reads an order and returns false at the end of the plan and on what is none.
static bool next(const char **at, const char *end, order *o) {
  uint32_t n, v;
  if (end - *at < 9) return false;
  memcpy(&n, *at + 1, 4);
  memcpy(&v, *at + 5, 4);
  if ((uint64_t)(end - *at - 9) < (uint64_t)n + v) return false;
  *o = (order){**at, {*at + 9, n}, {*at + 9 + n, v}};
  *at += 9 + (size_t)n + v;
  return true;
}

static bool ended(const char *at, const char *end) { return end - at == 1 && *at == 'E'; }

static void refuse(void *stream) {
  envoy_dynamic_module_callback_http_send_response(stream, 503, NULL, 0, (jwtb_text){NULL, 0}, TEXT("jwt_bouncer_failed"));
}

// reply replies to the client, or resets the stream if its response has begun.
static bool reply(void *stream, uint32_t status, const char *at, const char *end, jwtb_text details) {
  jwtb_header headers[16];
  size_t count = 0;
  jwtb_text body = {NULL, 0};
  order o;
  while (next(&at, end, &o)) {
    if (o.code == 'H' && count < sizeof headers / sizeof *headers) headers[count++] = (jwtb_header){o.name, o.value};
    if (o.code == 'B') body = o.value;
  }
  envoy_dynamic_module_callback_http_send_response(stream, status, headers, count, body, details);
  return false;
}

static bool set(void *stream, jwtb_text name, jwtb_text value) {
  if (!value.at) value.at = "";
  return envoy_dynamic_module_callback_http_set_header(stream, jwtb_request_headers, name, value);
}

static bool same(jwtb_text a, const char *at, size_t size) { return a.size == size && !memcmp(a.at, at, size); }

// without_query writes path without the query parameters of this name, as they are
// spelled, and returns the length.
static size_t without_query(jwtb_text path, jwtb_text name, char *out) {
  const char *end = path.at + path.size, *query = memchr(path.at, '?', path.size);
  size_t used = query ? (size_t)(query - path.at) : path.size;
  memcpy(out, path.at, used);
  char separator = '?';
  for (const char *p = query ? query + 1 : end; p < end;) {
    const char *stop = memchr(p, '&', end - p);
    if (!stop) stop = end;
    const char *equals = memchr(p, '=', stop - p);
    if (!same(name, p, (equals ? equals : stop) - p)) {
      out[used++] = separator;
      separator = '&';
      memcpy(out + used, p, stop - p);
      used += stop - p;
    }
    p = stop + 1;
  }
  return used;
}

static bool remove_query(void *stream, jwtb_text name) {
  size_t n = envoy_dynamic_module_callback_http_get_headers_size(stream, jwtb_request_headers);
  jwtb_header *h = calloc(n ? n : 1, sizeof *h);
  bool done = false;
  if (h && envoy_dynamic_module_callback_http_get_headers(stream, jwtb_request_headers, h))
    for (size_t i = 0; i < n; i++)
      if (same(h[i].name, ":path", 5)) {
        char *path = malloc(h[i].value.size + 1);
        if (path) done = set(stream, TEXT(":path"), (jwtb_text){path, without_query(h[i].value, name, path)});
        free(path);
        break;
      }
  free(h);
  return done;
}

static bool change(void *stream, const order *o) {
  switch (o->code) {
  case 'S': return set(stream, o->name, o->value);
  case 'R': envoy_dynamic_module_callback_http_set_header(stream, jwtb_request_headers, o->name, (jwtb_text){NULL, 0}); return true;
  case 'Q': return remove_query(stream, o->name);
  case 'M':
    if (!envoy_dynamic_module_callback_http_set_dynamic_metadata_struct) return false;
    // It returns nothing; what Envoy cannot read as a Struct, it logs.
    envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(stream, TEXT("envoy.filters.http.ext_authz"), o->value);
    return true;
  }
  return false;
}

bool jwtb_apply(void *stream, const char *plan, size_t size) {
  const char *at = plan + 5, *end = plan + size;
  uint32_t status;
  order o;
  if (size >= 6 && (*plan == 'D' || *plan == 'X')) {
    memcpy(&status, plan + 1, 4);
    return reply(stream, status, at, end, *plan == 'D' ? TEXT("jwt_bouncer_denied") : TEXT("jwt_bouncer_ended"));
  }
  bool good = size >= 6 && *plan == 'A';
  while (good && next(&at, end, &o)) good = change(stream, &o);
  if (good && ended(at, end)) return true;
  refuse(stream); // a change that cannot be made, or no plan
  return false;
}
