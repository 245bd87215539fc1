package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"jwtbouncer/envoy"
)

// Host is a process, such as Envoy, that a sidecar may run in. It has at most one
// sidecar at a time, however often Envoy loads the configuration of its filter: two
// would need the same port, and twice the memory for revocations. The zero Host is
// not usable; see NewHost.
type Host struct {
	version string
	log     io.Writer
	env     func(string) (string, bool)

	mu      sync.Mutex
	running *Embedded
	closing sync.WaitGroup // of the sidecars that nobody uses any more
}

// NewHost returns a Host without a sidecar. env looks up environment variables; nil:
// there are none.
func NewHost(version string, log io.Writer, env func(string) (string, bool)) *Host {
	return &Host{version: version, log: log, env: env}
}

// Embedded is a sidecar in the process of Envoy. It has no gRPC service; Local takes
// the place of that.
type Embedded struct {
	// Local answers Envoy's filter. Without proof it denies, like the sidecar: with
	// 503 until the keys and the revocations are loaded.
	Local *envoy.Local

	host     *Host
	file     string
	uses     int // under Host.mu
	instance *instance
}

// Embed returns the sidecar of the configuration file that filterConfig names (see
// ConfigFile), and starts it unless it runs already. The caller calls Release in the
// end. While a sidecar runs, another file is an error. Changed routes of the file take
// effect as in the sidecar; signals belong to the process.
func (h *Host) Embed(filterConfig []byte) (*Embedded, error) {
	file, err := ConfigFile(filterConfig)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.running; e != nil {
		if e.file != file {
			return nil, fmt.Errorf("%s: this process already runs jwt-bouncer with %s; a process has one configuration file", file, e.file)
		}
		e.uses++
		return e, nil
	}
	h.closing.Wait() // for the HTTP port and the store
	e, err := h.start(file)
	if err != nil {
		return nil, err
	}
	h.running = e
	return e, nil
}

func (h *Host) start(file string) (*Embedded, error) {
	load := func() (Settings, error) { return Load(file, h.env) }
	s, err := load()
	if err != nil {
		return nil, err
	}
	reload := func() (Settings, error) {
		next, err := load()
		if i := next.endsStreams(); err == nil && i >= 0 && !s.Revocation.Replica {
			err = fmt.Errorf("routes[%d].end_streams needs revocation.replica: on, which takes a restart; this process runs with off", i)
		}
		return next, err
	}
	i, err := newInstance(context.Background(), s, Process{Version: h.version, Log: h.log, File: file, Reload: reload})
	if err != nil {
		return nil, err
	}
	e := &Embedded{host: h, file: file, uses: 1, instance: i}
	if e.Local, err = envoy.NewLocal(i.core.authorizer, i.envoyConfig(), i.envoyOptions(), i.core.revoked()); err != nil {
		i.close()
		return nil, err
	}
	if err = i.receive(); err != nil {
		e.Local.Close()
		i.close()
		return nil, err
	}
	i.log.Info("running in this process", "file", file, "http", s.Listen.HTTP, "store", i.core.store.Name(), "replica", s.Revocation.Replica, "version", h.version)
	if unused := unusedEmbedded(s); len(unused) > 0 {
		i.log.Info("settings of the gRPC service have no effect in this process", "settings", unused)
	}
	i.run(func(bool) {}, nil)
	i.group.Go(i.reportFailure)
	return e, nil
}

// unusedEmbedded returns the settings that are not the default and that Embed does not
// use.
func unusedEmbedded(s Settings) []string {
	var unused []string
	value, standard := reflect.ValueOf(s.Listen.ListenConfig), reflect.ValueOf(Defaults().Listen.ListenConfig)
	for i := range value.NumField() {
		if !reflect.DeepEqual(value.Field(i).Interface(), standard.Field(i).Interface()) {
			unused = append(unused, "listen."+value.Type().Field(i).Tag.Get("yaml"))
		}
	}
	return unused
}

// Release undoes one Embed. After the last one the sidecar ends in the background,
// because Envoy may call from a worker thread. No call of Local may be in progress.
func (e *Embedded) Release() {
	h := e.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.uses--; e.uses > 0 || h.running != e {
		return
	}
	h.running = nil
	h.closing.Go(e.close)
}

func (e *Embedded) close() {
	i := e.instance
	i.drain()
	e.Local.Close()
	i.end()
	i.close()
}

// Wait returns when every sidecar that has been released has ended.
func (h *Host) Wait() { h.closing.Wait() }

// Validate reports whether Embed would accept the configuration file. It starts
// nothing: no store is opened, no file created and no port bound.
func (h *Host) Validate(filterConfig []byte) error {
	file, err := ConfigFile(filterConfig)
	if err == nil {
		_, err = Load(file, h.env)
	}
	return err
}

// ConfigFile returns the absolute path of the configuration file that the
// filter_config of Envoy's filter names: the path itself, or, where only JSON is
// possible, an object with the member "file".
func ConfigFile(filterConfig []byte) (string, error) {
	file := strings.TrimSpace(string(filterConfig))
	if strings.HasPrefix(file, "{") {
		var o struct{ File string }
		d := json.NewDecoder(strings.NewReader(file))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil || d.More() {
			return "", errors.New(`filter_config: must be the path of the configuration file, or {"file": "/path"}`)
		}
		file = o.File
	}
	if !filepath.IsAbs(file) || strings.ContainsAny(file, "\x00\n") {
		return "", errors.New("filter_config: must be the absolute path of the configuration file of jwt-bouncer, such as /etc/jwt-bouncer/config.yaml")
	}
	return filepath.Clean(file), nil
}
