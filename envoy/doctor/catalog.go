package doctor

// Check describes a check: what a finding means, and what to do about it.
type Check struct {
	Level Status // of a finding, unless the circumstances make it worse or better
	Why   string // what the check protects from
	Do    string
}

// catalog has every check by its ID. docs/doctor.md lists it.
var catalog = map[string]Check{
	"config.valid":       {Failure, "No sidecar starts with an invalid configuration.", "Correct the key that the message names; `jwt-bouncer config check` lists all errors."},
	"config.permissions": {Failure, "Whoever can write the file decides who is let in; whoever can read a password in it has the store or Redis.", "`chmod go-w FILE`; keep passwords in files of their own (`store_password_file`, `redis.password_file`)."},
	"config.routes":      {Warning, "A route that no request reaches protects nothing.", "Move the narrower route before the broader one, or delete it."},
	"files.readable":     {Failure, "The sidecar does not start, or has no keys.", "Give the sidecar's user the right to read the file, and correct its content."},
	"files.permissions":  {Warning, "Another user of the machine can take the secret, or replace it.", "`chmod 0640` and the sidecar's group for the file; nobody else may write to it or its directory."},
	"files.certificate":  {Failure, "When the certificate has expired, Envoy cannot reach the sidecar and denies every request.", "Renew the certificate; the sidecar reads it again by itself."},
	"files.socket":       {Failure, "Whoever can write to the directory can put another service at the socket's path, which then allows everything.", "Give the directory to the sidecar's user, mode 0750."},

	"issuers.keys":      {Failure, "Without keys, every token of the issuer is answered 503.", "See what came instead of the keys; correct `issuer` or `jwks`, or let the network reach it."},
	"issuers.refused":   {Warning, "Tokens signed with a refused key are answered 401.", "Ask the issuer to publish the key in a form that is accepted (docs/security.md), or ignore keys for other purposes."},
	"issuers.plaintext": {Warning, "Whoever is between the sidecar and the issuer can replace the keys, and then sign any token.", "Use https for `issuer` and `jwks`."},

	"streams.found":   {Failure, "What the transmitter reports revokes nothing.", "Create the stream (`jwt-bouncer streams create`), correct the credentials or `audiences`, and let the network reach the transmitter."},
	"streams.enabled": {Failure, "A paused stream sends nothing, and a disabled one loses events.", "`jwt-bouncer streams status --set enabled`, once the transmitter's reason has passed."},
	"streams.store":   {Warning, "An event reaches one sidecar; others enforce it only if they share its store.", "Let sidecars share a Postgres store, give each a stream of its own, or accept this result for a single sidecar."},

	"store.reachable":          {Failure, "Revocations can neither be stored nor read; after `max_staleness` every token is answered 503.", "Start the store, and let the network and its credentials reach it."},
	"store.schema":             {Failure, "A sidecar works with one version of the schema only.", "Run `jwt-bouncer migrate`, or upgrade jwt-bouncer."},
	"store.version":            {Failure, "The schema needs PostgreSQL 14.", "Upgrade the server."},
	"store.primary":            {Failure, "A server that receives revocations from another one proves nothing: sidecars are never fresh.", "Connect to the primary (`target_session_attrs=primary`)."},
	"store.superuser":          {Failure, "Whoever takes over a sidecar then has the whole database server.", "Create a login of its own and `grant authz_sidecar`, `authz_revoker` to it (docs/store.md, \"Give out rights\")."},
	"store.attributes":         {Warning, "The login may do more than a sidecar needs.", "`alter role … nocreatedb nocreaterole noreplication nobypassrls`; `migrate` may run as another login."},
	"store.rights":             {Failure, "The sidecar cannot read, or cannot store, revocations.", "`grant authz_sidecar to` the login, and `authz_revoker` if the sidecar serves the revocation API."},
	"store.excess":             {Warning, "Whoever takes over a sidecar could undo revocations: an owner can drop the triggers that keep them.", "Let a role of its own own the schema, run `migrate` as that role, and let sidecars log in as another one."},
	"store.owner":              {Warning, "Functions of the schema run with their owner's rights; should one have a fault, it gives away the whole server.", "Install the schema as a role that is no superuser (docs/store.md, \"Give out rights\")."},
	"store.encoding":           {Failure, "A database in another encoding cannot store the names of every issuer and subject; the sidecar refuses it.", "Create the database with `encoding 'UTF8' template template0`."},
	"store.durability":         {Failure, "A revocation whose caller was told that it is stored can be lost in a crash.", "Turn on `fsync` and `full_page_writes`, keep the tables logged and their triggers enabled, and leave `session_replication_role` at `origin`."},
	"store.synchronous_commit": {Warning, "The schema's triggers raise it to `on` for revocations; other writers of the database may lose commits in a crash.", "Set `synchronous_commit = on` for the database, or accept this result."},
	"store.jit":                {Warning, "Below the default `jit_above_cost`, the server compiles the short statements of sidecars again in every session.", "`alter role LOGIN set jit = off`, or restore `jit_above_cost`."},
	"store.statement_timeout":  {Warning, "A statement whose sidecar has gone runs on.", "`alter role LOGIN set statement_timeout = '30s'`."},
	"store.pooler":             {Warning, "`migrate` needs a direct connection or one pooled by session; pgbouncer before 1.20 can crash on a cancel request.", "Run `migrate` past the pooler; use pgbouncer 1.20 or newer, and `pool_mode` session or transaction."},
	"store.tls":                {Warning, "Whoever is between the sidecar and the store can read and forge its answers.", "Set `sslmode=verify-full` and `sslrootcert` in the store's URL."},
	"store.file":               {Failure, "Whoever can write to the file, or to its directory, can undo revocations.", "Give the file (0600) and its directory (0700) to the sidecar's user."},

	"redis.reachable":        {Failure, "Revocations reach other sidecars at their next sync only, and DPoP-bound tokens are answered 503.", "Start Redis, and let the network and its credentials reach it."},
	"redis.subscription":     {Failure, "Published revocations do not reach the sidecar, which learns of them at its next sync.", "Grant the user the channel and the commands in docs/redis.md (`&jwt-bouncer:revocations +subscribe`)."},
	"redis.maxmemory_policy": {Warning, "When memory is short, Redis forgets used DPoP proofs, which then pass again.", "`config set maxmemory-policy noeviction`, and in redis.conf."},
	"redis.role":             {Failure, "A replica takes no writes: nothing is published.", "Connect to the master; with Sentinel or Cluster, set `master_name` or `cluster`."},
	"redis.version":          {Failure, "Commands of Redis 6.2 are needed.", "Upgrade Redis, or use Valkey."},
	"redis.tls":              {Warning, "Whoever is between the sidecar and Redis can forge verdicts and used proofs.", "Use `rediss://`, or `redis.tls.enabled`."},
	"redis.auth":             {Warning, "Whoever can reach Redis can make tokens fail and, in lookup mode, a revoked token pass.", "Give the sidecars a user and a password (docs/redis.md has the ACL rule)."},

	"clocks.store":  {Warning, "Tokens expire, and revocations begin and end, by the clocks: a sidecar far behind proves nothing.", "Synchronise both clocks (NTP)."},
	"clocks.redis":  {Warning, "Redis keeps used proofs and verdicts by its own clock.", "Synchronise both clocks (NTP)."},
	"clocks.issuer": {Warning, "Tokens of an issuer whose clock is ahead are not valid yet here; of one behind, they live too long.", "Synchronise the clocks (NTP), or set the issuer's `leeway`."},

	"envoy.config":                   {Failure, "What is not in the configuration cannot be examined.", "Give the doctor the admin address of a running Envoy, or the output of its /config_dump."},
	"envoy.listener.unprotected":     {Failure, "Requests that come in there are forwarded without anybody asking about them.", "Add the ext_authz filter to the HTTP connection manager, delete the listener, or accept this result for it."},
	"envoy.route.disabled":           {Failure, "Requests on this route are forwarded without a check, with whatever identity headers the client invents.", "Delete the setting and declare the route `public: true` in jwt-bouncer, which removes forged identity headers."},
	"envoy.route.other_service":      {Failure, "Another service decides about requests on this route.", "Delete check_settings.grpc_service and http_service of the route."},
	"envoy.route.none":               {Failure, "ext_authz does not ask about a request without a route (envoy#44397). If a later filter selects a route or answers, the request passes unchecked.", "End every virtual host with a route for `prefix: /` (direct_response 404 suffices), and have a virtual host for the domain `*`."},
	"envoy.route.cluster_header":     {Warning, "Whoever sets the header chooses where the request goes.", "Name the cluster in the route, or remove the header from clients' requests before the check."},
	"envoy.route.internal_redirect":  {Warning, "The redirected request is checked again, as its own request, but with the headers that the first check left, and the upstream chooses its path.", "Let the client follow redirects, or allow them to paths that need no other rights."},
	"envoy.route.to_sidecar":         {Warning, "Clients reach the sidecar's own gRPC service.", "Route the request to an upstream."},
	"envoy.route.misnamed":           {Warning, "Envoy ignores the settings: context_extensions do not reach the sidecar, which then chooses another route.", "Name the settings after the filter in http_filters."},
	"envoy.forwarded_certificate":    {Failure, "A client that invents x-forwarded-client-cert has any certificate: bound tokens pass without their key.", "Set forward_client_cert_details: SANITIZE_SET, or `binding.trust_forwarded_certificate: false`."},
	"envoy.identity":                 {Failure, "The upstream receives another identity or path than the one that was checked.", "Let only jwt-bouncer set identity headers (`headers.claims`)."},
	"envoy.order":                    {Failure, "A filter that answers before ext_authz answers without a check; one that changes headers or the path after it changes what was checked.", "Put ext_authz before every filter that uses or answers for the caller, and after `cors`."},
	"envoy.path.normalize_path":      {Warning, "Envoy's routes and the upstream may read the path otherwise than it was checked. jwt-bouncer refuses such paths, so valid requests fail.", "Set normalize_path: true in the HTTP connection manager."},
	"envoy.path.merge_slashes":       {Warning, "Envoy's routes and the upstream may read the path otherwise than it was checked. jwt-bouncer compares both readings and refuses those that differ.", "Set merge_slashes: true in the HTTP connection manager."},
	"envoy.path.escaped_slashes":     {Warning, "Some upstreams read %2F as a separator and some do not.", "Set path_with_escaped_slashes_action: REJECT_REQUEST in the HTTP connection manager."},
	"envoy.headers_with_underscores": {Warning, "Some upstreams read x_jwt_sub as x-jwt-sub: a client can forge an identity header in a spelling that nobody removes.", "Set common_http_protocol_options.headers_with_underscores_action: REJECT_REQUEST in the HTTP connection manager."},
	"envoy.admin":                    {Warning, "Whoever reaches the admin interface can read the configuration, and change runtime settings or end Envoy.", "Bind admin.address to 127.0.0.1 or a socket."},

	"envoy.ext_authz.failure_mode_allow":            {Failure, "Every request passes while the sidecar cannot be reached, with any identity headers that the client invents.", "Set failure_mode_allow: false."},
	"envoy.ext_authz.failure_mode_allow_header_add": {Warning, "It has an effect only where requests pass unchecked, and upstreams that rely on it trust a header.", "Delete failure_mode_allow_header_add, and failure_mode_allow."},
	"envoy.ext_authz.shadow_mode":                   {Failure, "Denials are recorded and not enforced: every request passes.", "Delete shadow_mode."},
	"envoy.ext_authz.enabled":                       {Failure, "Requests for which the filter is not enabled pass unchecked.", "Delete filter_enabled and filter_enabled_metadata, or set deny_at_disable; with Istio, let the AuthorizationPolicy's rules be `[{}]`."},
	"envoy.ext_authz.is_optional":                   {Warning, "An Envoy that does not know the filter ignores it, and checks nothing.", "Delete is_optional."},
	"envoy.ext_authz.grpc_service":                  {Failure, "The sidecar answers over gRPC only.", "Set grpc_service.envoy_grpc.cluster_name, and delete http_service."},
	"envoy.ext_authz.timeout":                       {Failure, "A shorter timeout fails checks that the sidecar would have answered; a long one keeps requests waiting while it is gone.", "Set grpc_service.timeout: 0.2s."},
	"envoy.ext_authz.status_on_error":               {Warning, "If the sidecar cannot be reached, clients are told that they are forbidden, and do not try again.", "Set status_on_error: {code: ServiceUnavailable}."},
	"envoy.ext_authz.encode_raw_headers":            {Warning, "Repeated headers arrive joined by a comma, so the sidecar cannot tell two credentials from one, and refuses both.", "Set encode_raw_headers: true."},
	"envoy.ext_authz.validate_mutations":            {Warning, "A header that HTTP cannot carry reaches the upstream.", "Set validate_mutations: true."},
	"envoy.ext_authz.include_peer_certificate":      {Warning, "Certificate-bound tokens (RFC 8705) are denied.", "Set include_peer_certificate: true."},
	"envoy.ext_authz.include_tls_session":           {Warning, "The sidecar does not see the SNI of the connection.", "Set include_tls_session: true."},
	"envoy.ext_authz.with_request_body":             {Warning, "jwt-bouncer ignores bodies and keeps one in memory for each check; a check of more than 16 MiB fails.", "Delete with_request_body, or keep max_request_bytes at 8 MiB or less."},
	"envoy.ext_authz.allowed_headers":               {Failure, "The sidecar cannot judge a credential, and cannot remove a forged header, that it does not see.", "Delete allowed_headers and disallowed_headers."},
	"envoy.ext_authz.mutation_rules":                {Failure, "Envoy leaves the client's identity headers in place, and the upstream believes them.", "Delete decoder_header_mutation_rules, or let them allow every identity header."},
	"envoy.ext_authz.metadata":                      {Warning, "Rate limits and access logs that use the claims see none.", "Set enable_dynamic_metadata_ingestion: true."},
	"envoy.ext_authz.clear_route_cache":             {Warning, "After the check a route is selected again, by headers that the check has changed: its settings are not those with which the sidecar was asked.", "Delete clear_route_cache, unless routes match on identity headers; then let all of them have the same context_extensions."},
	"envoy.ext_authz.several":                       {Warning, "A request is asked about several times, and the filters may change each other's headers.", "Keep one ext_authz filter, or accept this result."},

	"envoy.cluster.http2":            {Failure, "gRPC needs HTTP/2: every check fails.", "Set explicit_http_config.http2_protocol_options in typed_extension_protocol_options of the cluster."},
	"envoy.cluster.circuit_breakers": {Warning, "In a burst of more requests, checks fail that the sidecar could easily answer.", "Set circuit_breakers.thresholds: [{max_requests: 65536, max_pending_requests: 65536}]."},
	"envoy.cluster.keepalive":        {Warning, "Envoy keeps asking a sidecar that vanished without closing its connections, until TCP gives up.", "Set http2_protocol_options.connection_keepalive: {interval: 30s, timeout: 5s}."},
	"envoy.cluster.tls":              {Warning, "Whoever is between Envoy and the sidecar can answer in its place, and allow everything.", "Listen on a Unix socket, or set listen.grpc_tls, and an UpstreamTlsContext with trusted_ca."},
}
