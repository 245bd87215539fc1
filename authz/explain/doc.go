// Package explain tells people why a request would pass or not. It records the
// steps of the real decision and repeats none of its rules.
package explain
