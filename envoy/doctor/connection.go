package doctor

// connection examines what a connection manager does to a request before the
// sidecar is asked about it.
func (p *proxy) connection(where string, m node) {
	p.expect(m.get("normalize_path").on(), "envoy.path.normalize_path", where, "normalize_path is not true")
	p.expect(m.get("merge_slashes").on(), "envoy.path.merge_slashes", where, "merge_slashes is not true")
	slashes := m.get("path_with_escaped_slashes_action")
	p.expect(slashes.is("REJECT_REQUEST", 2), "envoy.path.escaped_slashes", where, "path_with_escaped_slashes_action is %s", orText(slashes, "not set"))
	if n := m.get("path_normalization_options"); n.exists() {
		p.unknown("envoy.path.normalize_path", where, "path_normalization_options is set, and its transformations are not compared with the sidecar's")
	}
	underscores := m.get("common_http_protocol_options", "headers_with_underscores_action")
	p.pick(underscores.is("REJECT_REQUEST", 1) || underscores.is("DROP_HEADER", 2), Warning, "envoy.headers_with_underscores", where, "headers_with_underscores_action is %s", orText(underscores, "not set"))

	if p.ForwardedCert {
		const id = "envoy.forwarded_certificate"
		switch d := m.get("forward_client_cert_details"); {
		case d.is("ALWAYS_FORWARD_ONLY", 4):
			p.find(Failure, id, where, "forward_client_cert_details is ALWAYS_FORWARD_ONLY, and the sidecar trusts x-forwarded-client-cert")
		case d.is("FORWARD_ONLY", 1), d.is("APPEND_FORWARD", 2):
			p.find(Warning, id, where, "forward_client_cert_details is %s, and the sidecar trusts x-forwarded-client-cert", orText(d, ""))
		default:
			p.pass(id, where)
		}
	}
}
