package policytest

import (
	"encoding/xml"
	"io"
	"strings"
)

// The elements of a JUnit report that CI systems read.
type (
	junitSuites struct {
		XMLName  xml.Name   `xml:"testsuites"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Suite    junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitFailure `xml:"failure"` // nil: passed
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML. name is that of the file with the
// tests.
func (r Report) WriteJUnit(w io.Writer, name string) error {
	suite := junitSuite{Name: name, Tests: len(r.Results), Failures: r.Failed}
	for _, t := range r.Results {
		c := junitCase{Class: name, Name: t.Name}
		if len(t.Wrong) > 0 {
			c.Failure = &junitFailure{Message: strings.Join(t.Wrong, "; "), Text: t.Detail}
		}
		suite.Cases = append(suite.Cases, c)
	}
	text, err := xml.MarshalIndent(junitSuites{Tests: suite.Tests, Failures: suite.Failures, Suite: suite}, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write([]byte(xml.Header + string(text) + "\n"))
	return err
}
