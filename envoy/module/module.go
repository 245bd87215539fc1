//go:build cgo && linux

// Command module is jwt-bouncer as a dynamic module of Envoy: a shared library that
// answers in Envoy's own process. docs/in-process.md describes it.
//
// It holds what needs C, and no decision: shim.c calls the exported functions, which
// pass everything on to the packages filter, envoy and sidecar. None of them lets a
// panic out, because a panic ends Envoy.
package main

/*
#cgo CFLAGS: -std=c11 -Wall -Wno-unused-parameter
#include "abi.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"runtime/cgo"
	"unsafe"

	"jwtbouncer/envoy"
	"jwtbouncer/envoy/filter"
	"jwtbouncer/envoy/sidecar"
)

var version = "dev" // set by the linker

var host = sidecar.NewHost(version, os.Stderr, os.LookupEnv) //nolint:forbidigo // this is main

// abiVersion is what Envoy is told. C may keep it.
var abiVersion *C.char

func main() {}

// jwtbInit runs once, before anything else, on Envoy's main thread. NULL: Envoy does not load the
// module.
//
//export jwtbInit
func jwtbInit() (abi *C.char) {
	defer recovered("start", func() { abi = nil })
	v, err := filter.CheckABI("/proc/self/exe", os.Getenv(filter.UntestedVariable) == "allow") //nolint:forbidigo // this is main
	if err != nil {
		complain(err)
		if v == "" {
			return nil
		}
	}
	if abiVersion == nil {
		abiVersion = C.CString(v)
	}
	return abiVersion
}

// jwtbConfigNew returns the handle of the sidecar for a filter_config. 0: Envoy rejects the
// configuration.
//
//export jwtbConfigNew
func jwtbConfigNew(text *C.char, size C.size_t) (handle C.uintptr_t) {
	defer recovered("filter_config", func() { handle = 0 })
	config := C.GoBytes(unsafe.Pointer(text), C.int(size))
	if bool(C.envoy_dynamic_module_callback_is_validation_mode()) {
		if err := host.Validate(config); err != nil {
			complain(err)
			return 0
		}
		return C.uintptr_t(cgo.NewHandle((*sidecar.Embedded)(nil))) // no request comes
	}
	e, err := host.Embed(config)
	if err != nil {
		complain(err)
		return 0
	}
	makeRoom(int(C.envoy_dynamic_module_callback_get_concurrency()))
	return C.uintptr_t(cgo.NewHandle(e))
}

// makeRoom raises GOMAXPROCS above the number of Envoy's workers, unless it is set in the
// environment.
//
// Between two requests a worker keeps its share of GOMAXPROCS until Go's monitor takes it away. If
// there are no more shares than workers, a decision in the background has to wait for the monitor; if
// there are fewer, so has a worker, with all its streams. A container's limit of CPUs makes GOMAXPROCS
// small, and not the number of workers.
func makeRoom(workers int) {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) <= workers { //nolint:forbidigo // this is main
		runtime.GOMAXPROCS(workers + 1)
	}
}

//export jwtbConfigDestroy
func jwtbConfigDestroy(handle C.uintptr_t) {
	defer recovered("end of a configuration", func() {})
	h := cgo.Handle(handle)
	e, _ := h.Value().(*sidecar.Embedded)
	h.Delete()
	if e != nil {
		e.Release()
	}
}

// jwtbRequest answers a request, or holds it back until jwtbScheduled.
//
//export jwtbRequest
func jwtbRequest(f *C.jwtb_filter, request *C.char, size C.size_t) (status C.int) {
	envoys := f.stream
	defer recovered("request", func() { status = apply(envoys, envoy.UnavailablePlan()) })
	e, _ := cgo.Handle(f.config).Value().(*sidecar.Embedded)
	if e == nil {
		return apply(envoys, envoy.UnavailablePlan())
	}
	// The copy is Go's. Envoy's memory changes with the headers, and a decision may outlive the stream.
	req := filter.ParseRequest(C.GoBytes(unsafe.Pointer(request), C.int(size)))
	harm(req)
	plan, watch, decided := e.Local.AnswerNow(req)
	if decided && watch == nil {
		return apply(envoys, plan)
	}
	s := filter.NewStream(scheduler{C.envoy_dynamic_module_callback_http_filter_scheduler_new(envoys)})
	h := cgo.NewHandle(s)
	f.kept = C.uintptr_t(h)
	if decided {
		s.Watch(watch, uint64(h))
		return apply(envoys, plan)
	}
	if plan = s.Decide(e.Local, req, uint64(h)); plan != nil {
		return apply(envoys, plan)
	}
	return C.jwtb_stop_everything
}

// jwtbScheduled continues with a stream, on its worker thread: with its decision, or with its end.
//
//export jwtbScheduled
func jwtbScheduled(envoys unsafe.Pointer, kept C.uintptr_t) {
	plan := take(kept)
	if plan != nil && apply(envoys, plan) == C.jwtb_continue {
		C.envoy_dynamic_module_callback_http_filter_continue_decoding(envoys)
	}
}

// take returns the plan that has been committed, and nil if there is none.
func take(kept C.uintptr_t) (plan []byte) {
	defer recovered("decision", func() { plan = envoy.UnavailablePlan() })
	s, _ := cgo.Handle(kept).Value().(*filter.Stream)
	plan, watch := s.Take()
	s.Watch(watch, uint64(kept))
	return plan
}

//export jwtbDestroy
func jwtbDestroy(kept C.uintptr_t) {
	defer recovered("end of a stream", func() {})
	h := cgo.Handle(kept)
	s, _ := h.Value().(*filter.Stream)
	h.Delete()
	s.Close()
}

// apply carries out a plan. After a denial the stream may be gone.
func apply(stream unsafe.Pointer, plan []byte) C.int {
	if bool(C.jwtb_apply(stream, (*C.char)(unsafe.Pointer(unsafe.SliceData(plan))), C.size_t(len(plan)))) {
		return C.jwtb_continue
	}
	return C.jwtb_stop
}

// scheduler is Envoy's, for one stream.
type scheduler struct{ envoy unsafe.Pointer }

var _ filter.Scheduler = scheduler{}

func (s scheduler) Commit(event uint64) {
	C.envoy_dynamic_module_callback_http_filter_scheduler_commit(s.envoy, C.uint64_t(event))
}

func (s scheduler) Delete() { C.envoy_dynamic_module_callback_http_filter_scheduler_delete(s.envoy) }

// recovered ends a panic and calls instead. Its value is not written: it may quote a request.
func recovered(where string, instead func()) {
	if p := recover(); p != nil {
		complain(fmt.Errorf("panic in %s: %T", where, p))
		instead()
	}
}

func complain(err error) { fmt.Fprintln(os.Stderr, "jwt-bouncer:", err) }
